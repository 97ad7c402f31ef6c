"""Broken twins: modules with one fault each, and what the check that must notice it says. A suite that cannot fail is a defect."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from reference_impls import _kit as kit
from reference_impls import bitfit, child_tuning_d, child_tuning_f, ia3, lora, p_tuning

from . import checks

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


QV = ("attn.q", "attn.v", "xattn.q", "xattn.v")


def another_default(model: nn.Module, *, r: int = 4, alpha: float = 8.0, dropout: float = 0.0, targets: Any = QV) -> None:
    """`apply` of LoRA with a wrong default."""


def other_targets(model: nn.Module, *, r: int = 8, alpha: float = 8.0, dropout: float = 0.0, targets: Any = QV[:1]) -> None:
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


def apply_cut(model: nn.Module, *, r: int, alpha: float, dropout: float) -> nn.Module:
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


def pack_whole_tensors(model: nn.Module) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters()}


def double_gradients(model: nn.Module) -> None:
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.register_hook(partial(torch.mul, 2.0))  # type: ignore[arg-type]


def start_elsewhere(model: nn.Module) -> None:
    with torch.no_grad():
        next(model.parameters()).add_(0.5)


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


TWINS = (
    Twin("another default", checks.signature, "defaults", "lora", but(lora, apply=another_default)),
    Twin("other targets", checks.signature, "default targets", "lora", but(lora, apply=other_targets)),
    Twin("fewer hyperparameters", checks.signature, "hyperparameters", "lora", but(lora, apply=fewer_hyperparameters)),
    Twin("wrong shape", checks.tensors, "other shapes", "lora", after_apply(lora, grow)),
    Twin("extra trained tensor", checks.tensors, "not declared", "lora", after_apply(lora, add_tensor)),
    Twin("extra frozen tensor", checks.tensors, "not declared", "lora", after_apply(lora, add_frozen_tensor)),
    Twin("unfrozen backbone", checks.tensors, "not declared", "lora", after_apply(lora, thaw)),
    Twin("frozen factor", checks.tensors, "trained should be", "lora", after_apply(lora, freeze_b)),
    Twin("missing site", checks.tensors, "does not exist", "lora", after_apply(lora, drop_one)),
    Twin("gain among the biases", checks.tensors, "not declared", "bitfit", after_apply(bitfit, thaw), "bert"),
    Twin("start not at zero", checks.identity, "starts elsewhere", "lora", after_apply(lora, start_at_ones)),
    Twin("cut graph", checks.training, "no gradient reaches", "lora", but(lora, apply=apply_cut)),
    Twin("unfrozen backbone", checks.training, "entries moved", "lora", after_apply(lora, thaw)),
    Twin("drifting backbone", checks.training, "not trained", "lora", after_apply(lora, drift)),
    Twin("uphill", checks.training, "never fell", "lora", after_apply(lora, climb)),
    Twin("no mask", checks.training, "entries moved", "child_tuning_d", but(child_tuning_d, calibrate=calibrate_nothing)),
    Twin("wrong scale", checks.merging, "changed the outputs", "lora", but(lora, merge=merge_twice_as_much)),
    Twin("wrong slice", checks.merging, "changed the outputs", "lora", but(lora, merge=merge_into_all_of_a_fused_weight), "gpt2"),
    Twin("left behind", checks.merging, "left something behind", "lora", but(lora, merge=merge_and_stay)),
    Twin("bias forgotten", checks.merging, "changed the outputs", "ia3", but(ia3, merge=merge_weights_only), "bert"),
    Twin("promised too little", checks.merging, "the entry says it cannot", "p_tuning", but(p_tuning, merge=keep_encoder)),
    Twin("one factor", checks.storing, "declared", "lora", but(lora, pack=pack_b, unpack=_load)),
    Twin("too much", checks.storing, "declared", "child_tuning_d", but(child_tuning_d, pack=pack_whole_tensors)),
    Twin("wrong positions", checks.storing, "declared", "child_tuning_d", but(child_tuning_d, calibrate=calibrate_least)),
    Twin("not enough", checks.storing, "does not give the tuned model back", "lora", but(lora, unpack=lambda model, state: None)),
    Twin("never finished", checks.storing, "left to serve", "p_tuning", but(p_tuning, finish=keep_encoder)),
    Twin("double gradients", checks.generalising, "trains elsewhere", "child_tuning_f", after_apply(child_tuning_f, double_gradients)),
    Twin("starts elsewhere", checks.generalising, "starts elsewhere", "child_tuning_f", after_apply(child_tuning_f, start_elsewhere)),
)  # fmt: skip
