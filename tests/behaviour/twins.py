"""Broken twins: modules with one fault each, and what the check that must notice it says.

A suite that cannot fail is a defect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from peftonomy.conformance import checks
from reference_impls import _kit as kit
from reference_impls import _merging as models
from reference_impls import (
    bitfit,
    child_tuning_d,
    child_tuning_f,
    galore,
    ia3,
    lisa,
    lora,
    mezo,
    p_tuning,
    task_arithmetic,
)

Fault = Callable[[nn.Module], object]


@dataclass(frozen=True)
class Twin:
    """A fault, and the check that must reject it with a message that holds `says`."""

    fault: str
    check: checks.Check
    says: str
    method: str
    module: Any
    family: str = "llama"

    def __str__(self) -> str:
        return f"{self.check.__name__}-{self.fault.replace(' ', '_')}"


def but(module: ModuleType, **changed: Any) -> SimpleNamespace:
    """The module with some of its functions replaced."""
    return SimpleNamespace(**{n: v for n, v in vars(module).items() if not n.startswith("_")} | changed)


def after_apply(module: ModuleType, fault: Fault) -> SimpleNamespace:
    """The module with a fault put in once it has been applied."""

    def apply(model: nn.Module, **hyperparameters: Any) -> nn.Module:
        module.apply(model, **hyperparameters)
        fault(model)
        return model

    return but(module, apply=apply)


def pairs(model: nn.Module) -> Iterator[lora.LoRA]:
    return (child for _, child in kit.at_sites(model, "lora", lora.LoRA))


# Combinations


@torch.no_grad()
def combine_at_once(model: nn.Module, inputs: Sequence[models.Input]) -> nn.Module:
    """Hold the changes of all inputs at one parameter."""
    for name, weight in models.own(model).items():
        weight.add_(torch.stack([one[name] - weight for one in inputs]).sum(0))
    return model


@torch.no_grad()
def combine_increases(model: nn.Module, inputs: Sequence[models.Input]) -> nn.Module:
    """Add only the positive changes, in as little memory."""
    for name, weight in models.own(model).items():
        total = torch.zeros_like(weight)
        for one in inputs:
            total.add_(models.change(one, name, weight).clamp_(min=0))
        weight.add_(total)
    return model


QV = ("attn.q", "attn.v", "xattn.q", "xattn.v")


def another_default(
    model: nn.Module, *, r: int = 4, alpha: float = 8.0, dropout: float = 0.0, targets: Any = QV
) -> None:
    """`apply` of LoRA with a wrong default."""


def other_targets(
    model: nn.Module, *, r: int = 8, alpha: float = 8.0, dropout: float = 0.0, targets: Any = QV[:1]
) -> None:
    """`apply` of LoRA with wrong default targets."""


def fewer_hyperparameters(model: nn.Module, *, r: int = 8, alpha: float = 8.0, targets: Any = QV) -> None:
    """`apply` of LoRA that forgot the dropout."""


def grow(model: nn.Module) -> None:
    for child in pairs(model):
        child.A = nn.Parameter(torch.cat([child.A.detach(), child.A.detach()[:1]]))


def add_tensor(model: nn.Module) -> None:
    for child in pairs(model):
        child.C = nn.Parameter(torch.zeros(1))


def add_frozen_tensor(model: nn.Module) -> None:
    for child in pairs(model):
        child.register_buffer("C", torch.zeros(1))


def thaw(model: nn.Module) -> None:
    next(model.parameters()).requires_grad_(True)


def freeze_b(model: nn.Module) -> None:
    for child in pairs(model):
        child.B.requires_grad_(False)


def drop_one(model: nn.Module) -> None:
    kit.drop(next(pairs(model)))


def start_at_ones(model: nn.Module) -> None:
    for child in pairs(model):
        nn.init.ones_(child.B)


class Cut(lora.LoRA):
    def after(self, x: Tensor, y: Tensor) -> Tensor:
        return y + self.scale * (x @ self.A.detach().T @ self.B.T)


def apply_cut(model: nn.Module, *, r: int, alpha: float, dropout: float, lora_bias: bool) -> nn.Module:
    kit.freeze(model)
    for site in kit.sites(model, QV):
        kit.attach(site, "lora", Cut(site.d_in, site.d_out, r=r, alpha=alpha, dropout=dropout))
    return model


def drift(model: nn.Module) -> None:
    model.register_forward_pre_hook(_drift)


def _drift(model: nn.Module, args: object) -> None:
    with torch.no_grad():
        next(model.parameters()).add_(1e-3)


def climb(model: nn.Module) -> None:
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.register_hook(torch.neg)


def merge_twice_as_much(model: nn.Module) -> None:
    with torch.no_grad():
        for site, child in kit.at_sites(model, "lora", lora.LoRA):
            site.weight.add_(2 * child.delta())
    kit.detach(model, "lora")


def merge_into_all_of_a_fused_weight(model: nn.Module) -> None:
    with torch.no_grad():
        for site, child in kit.at_sites(model, "lora", lora.LoRA):
            whole = site.module.weight.T if site.transposed else site.module.weight
            whole[: site.d_out].add_(child.delta())
    kit.detach(model, "lora")


def merge_and_stay(model: nn.Module) -> None:
    with torch.no_grad():
        for site, child in kit.at_sites(model, "lora", lora.LoRA):
            site.weight.add_(child.delta())
            child.B.zero_()


def merge_weights_only(model: nn.Module) -> None:
    with torch.no_grad():
        for site, inner in kit.at_sites(model, "ia3", ia3.ScaleInput):
            site.weight.mul_(inner.l_ff)
        for site, outer in kit.at_sites(model, "ia3", ia3.ScaleOutput):
            site.weight.mul_(outer.l_out[:, None])
    kit.detach(model, "ia3")


def pack_b(model: nn.Module) -> dict[str, Tensor]:
    return {n: v.clone() for n, v in model.state_dict().items() if n.endswith(".lora.B")}


def _load(model: nn.Module, state: dict[str, Tensor]) -> None:
    model.load_state_dict(state, strict=False)


def load_nothing(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Restores nothing."""


def pack_whole_tensors(model: nn.Module) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters()}


def double_gradients(model: nn.Module) -> None:
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.register_hook(partial(torch.mul, 2.0))


def start_elsewhere(model: nn.Module) -> None:
    with torch.no_grad():
        next(model.parameters()).add_(0.5)


def keep_a_sine(model: Any) -> None:
    """Keeps one more tensor, the output of the last feed-forward block, and changes nothing."""
    model.base_model.layers[-1].mlp.register_forward_hook(lambda _, args, y: y + 0 * y.sin())


def count_passes(model: Any) -> None:
    """Makes the output of the last feed-forward block depend on how often it ran."""
    passes: list[None] = []

    def changed(_: nn.Module, args: Any, y: Tensor) -> Tensor:
        passes.append(None)
        return y * (len(passes) * y).cos()

    model.base_model.layers[-1].mlp.register_forward_hook(changed)


def calibrate_nothing(model: nn.Module, losses: object) -> nn.Module:
    return model


def calibrate_least(model: nn.Module, losses: Any) -> nn.Module:
    """Masks as many entries as it should, but reports fewer: the child leaves out its first tensor."""
    child_tuning_d.calibrate(model, losses)
    name, mask = next(iter(child_tuning_d._child(model).masks.items()))
    child_tuning_d._child(model).masks[name] = torch.zeros_like(mask)
    return model


def keep_encoder(model: nn.Module) -> None:
    """Ends training without dropping what only training needs."""


def plain_adam(model: nn.Module, **settings: Any) -> torch.optim.Optimizer:
    """An optimizer that keeps both moments of every entry."""
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], **settings)


def keep_states(model: nn.Module, **settings: Any) -> torch.optim.Optimizer:
    """LISA's optimizer, which keeps the states of layers that rest, although it should not."""
    found = lisa.optimizer(model, **settings)
    found.keep = True
    return found


def never_freeze(model: nn.Module, **settings: Any) -> torch.optim.Optimizer:
    """LISA's optimizer, which trains all layers at a time."""
    found = lisa.optimizer(model, **settings)
    found.turn = lambda _: lisa.Lisa.turn(found, {*found.layers})  # type: ignore[method-assign]
    return found


def differentiate(model: nn.Module, **settings: Any) -> torch.optim.Optimizer:
    """MeZO's optimizer, which runs a backward pass all the same."""
    found = mezo.optimizer(model, **settings)
    before = found.step

    def step(closure: Callable[[], Tensor]) -> float:
        closure().backward()  # type: ignore[no-untyped-call]
        return before(closure)

    found.step = step  # type: ignore[assignment, method-assign]
    return found


def _of(method: str, module: ModuleType, check: checks.Check) -> Callable[..., Twin]:
    """Twins of one method for one check: `(fault, says, family="llama", **functions replaced)`."""

    def twin(fault: str, says: str, family: str = "llama", broken: Fault | None = None, **changed: Any) -> Twin:
        faulty = but(module, **changed) if broken is None else after_apply(module, broken)
        return Twin(fault, check, says, method, faulty, family)

    return twin


_signature = _of("lora", lora, checks.signature)
_tensors = _of("lora", lora, checks.tensors)
_training = _of("lora", lora, checks.training)
_merging = _of("lora", lora, checks.merging)
_storing = _of("lora", lora, checks.storing)
_child = _of("child_tuning_d", child_tuning_d, checks.storing)
_generalising = _of("child_tuning_f", child_tuning_f, checks.generalising)

TWINS = (
    _signature("another default", "defaults", apply=another_default),
    _signature("other targets", "default targets", apply=other_targets),
    _signature("fewer hyperparameters", "hyperparameters", apply=fewer_hyperparameters),
    _tensors("wrong shape", "other shapes", broken=grow),
    _tensors("extra trained tensor", "not declared", broken=add_tensor),
    _tensors("extra frozen tensor", "not declared", broken=add_frozen_tensor),
    _tensors("unfrozen backbone", "not declared", broken=thaw),
    _tensors("frozen factor", "trained should be", broken=freeze_b),
    _tensors("missing site", "does not exist", broken=drop_one),
    _of("bitfit", bitfit, checks.tensors)("gain among the biases", "not declared", "bert", broken=thaw),
    _of("lora", lora, checks.identity)("start not at zero", "starts elsewhere", broken=start_at_ones),
    _training("cut graph", "no gradient reaches", apply=apply_cut),
    _training("unfrozen backbone", "entries moved", broken=thaw),
    _training("drifting backbone", "not trained", broken=drift),
    _training("uphill", "never fell", broken=climb),
    _of("child_tuning_d", child_tuning_d, checks.training)("no mask", "entries moved", calibrate=calibrate_nothing),
    _merging("wrong scale", "changed the outputs", merge=merge_twice_as_much),
    _merging("wrong slice", "changed the outputs", "gpt2", merge=merge_into_all_of_a_fused_weight),
    _merging("left behind", "left something behind", merge=merge_and_stay),
    _of("ia3", ia3, checks.merging)("bias forgotten", "changed the outputs", "bert", merge=merge_weights_only),
    _of("p_tuning", p_tuning, checks.merging)("merge not declared", "the entry says it cannot", merge=keep_encoder),
    _storing("one factor", "declared", pack=pack_b, unpack=_load),
    _storing("not loaded", "does not give the tuned model back", unpack=load_nothing),
    _child("too much", "declared", pack=pack_whole_tensors),
    _child("wrong positions", "declared", calibrate=calibrate_least),
    _of("p_tuning", p_tuning, checks.storing)("never finished", "left to serve", finish=keep_encoder),
    _generalising("double gradients", "trains elsewhere", broken=double_gradients),
    _of("lora", lora, checks.memory)("one more tensor", "a step saves", broken=keep_a_sine),
    _of("lora", lora, checks.recomputing)("counts passes", "another gradient", broken=count_passes),
    _generalising("starts elsewhere", "starts elsewhere", broken=start_elsewhere),
    _of("galore", galore, checks.updating)("whole moments", "the optimizer keeps", optimizer=plain_adam),
    _of("lisa", lisa, checks.updating)("states that stay", "the optimizer keeps", "t5", optimizer=keep_states),
    _of("lisa", lisa, checks.memory)("no layer rests", "a step saves", "t5", optimizer=never_freeze),
    _of("mezo", mezo, checks.training)("a backward pass", "which is not trained now", optimizer=differentiate),
    _of("lora", lora, checks.updating)("an optimizer of its own", "if and only if", optimizer=plain_adam),
    _of("lora", lora, checks.combining)("combines undeclared", "if and only if", combine=combine_at_once),
    _of("task_arithmetic", task_arithmetic, checks.combining)("reads all", "takes", combine=combine_at_once),
    _of("task_arithmetic", task_arithmetic, checks.combining)("one sign", "apart", combine=combine_increases),
)
