"""Diff pruning: parameter-efficient transfer learning with diff pruning (guo2021diffpruning).

    theta = theta_0 + z * w,    z = clamp((r - l) sigmoid(logit(u) + alpha) + l, 0, 1),  u uniform
    structured:  z * z_g,  with one more gate for every parameter tensor

Every pretrained entry has a difference w and a gate alpha. While training, gates are drawn (hard-concrete: often
exactly 0 or 1, yet with a gradient) and each pays `penalty` times its chance to be open. `prune` then keeps the share
`kept` of largest |z w| of the whole model and drops the gates; the survivors are trained on. Trained: w, alpha and, if
structured, alpha_group. Stored: the surviving differences and their positions. At inference they are added to the
weights. In evaluation gates take the value at u = 1/2, where the authors go on drawing.

As in the authors' code the stretched distribution has no temperature. There a gate is drawn once per step, here at
every use, so that tied weights draw apart; and there the penalty is part of the loss, here of the gates' gradients.
"""

import math
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from . import _kit as kit
from . import _sparse as sparse


class Gate(kit.Child):
    """Difference and gates of one parameter; after `prune` the difference alone."""

    mask: Tensor | None = None      # which entries survived

    def __init__(self, like: Tensor, *, structured: bool, penalty: float, alpha_init: float, low: float, high: float):
        super().__init__()
        self.w = nn.Parameter(torch.zeros_like(like))
        self.alpha = nn.Parameter(torch.full_like(like, alpha_init))
        if structured:
            self.alpha_group = nn.Parameter(torch.full((1,), alpha_init))
        self.penalty, self.low, self.high = penalty, low, high
        self.noise: dict[str, Tensor] = {}      # uniform numbers by gate, where they are given and not drawn

    def gates(self) -> dict[str, nn.Parameter]:
        return {n: p for n, p in self.named_parameters() if n != "w"}

    def z(self, name: str, alpha: Tensor) -> Tensor:
        """A gate, drawn while training."""
        u = self.noise.get(name, torch.rand_like(alpha)) if self.training else torch.full_like(alpha, 0.5)
        return ((alpha + u.clamp(1e-4, 1 - 1e-4).logit()).sigmoid() * (self.high - self.low) + self.low).clamp(0, 1)

    def chances(self) -> dict[str, Tensor]:
        """Of each gate, that it is not exactly closed."""
        shift = math.log(-self.low / self.high)
        return {name: (alpha - shift).sigmoid() for name, alpha in self.gates().items()}

    def open(self) -> Tensor:
        """The chance of each entry to be let through, of the parameter's shape."""
        return math.prod(self.chances().values(), start=torch.ones_like(self.w))

    def delta(self) -> Tensor:
        if self.mask is not None:
            return self.w * self.mask
        return math.prod((self.z(name, alpha) for name, alpha in self.gates().items()), start=self.w)

    def penalised(self, name: str, gradient: Tensor) -> Tensor:
        """A gate's gradient with that of the penalty on its chance to be open."""
        s = self.chances()[name].detach()
        return gradient + self.penalty * s * (1 - s)

    def fix(self, mask: Tensor) -> None:
        """Drop the gates; from now on only the entries of the mask differ, and only they have a gradient."""
        for name in list(self.gates()):
            delattr(self, name)
        self.mask = mask


class Moved(nn.Module):
    """A parametrisation: the weight is its pretrained value and the difference."""

    gate: Gate      # not a submodule

    def __init__(self, gate: Gate):
        super().__init__()
        kit.share(self, gate=gate)

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.gate.delta()


class Target(kit.Child):
    """The share that is to be kept."""

    def __init__(self, kept: float):
        super().__init__()
        self.kept = kept


def apply(
    model: nn.Module, *, kept: float = 0.005, structured: bool = True, penalty: float = 1.25e-7,
    alpha_init: float = 5.0, low: float = -1.5, high: float = 1.5,
) -> nn.Module:
    """Freeze the model and give every pretrained entry a difference and a gate."""
    kit.freeze(model)
    settings = {"penalty": penalty, "alpha_init": alpha_init, "low": low, "high": high}
    gates = {}
    for name, parameter in sparse.parameters(model).items():
        path, _, suffix = name.rpartition(".")
        gate = gates[id(parameter)] = Gate(parameter.detach(), structured=structured, **settings)
        kit.attach(model.get_submodule(path), f"diff_pruning.{suffix}", gate)
        for gate_name, alpha in gate.gates().items():
            alpha.register_hook(partial(gate.penalised, gate_name))
    kit.attach(model, "diff_pruning", Target(kept))
    for module in list(model.modules()):
        for suffix, parameter in list(module.named_parameters(recurse=False)):
            if id(parameter) in gates:      # tied weights wherever they occur
                parametrize.register_parametrization(module, suffix, Moved(gates[id(parameter)]), unsafe=True)
    return model


def gates(model: nn.Module) -> dict[str, Gate]:
    """The gate of every parameter, by the gate's name in the model."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Gate)}


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Run the method alone on recorded inputs; for the golden vectors."""
    for path, gate in gates(model).items():
        gate.noise = {name: inputs[f"u.{path}.{name}"] for name in gate.gates()}
    logits: Tensor = model(input_ids=inputs["input_ids"]).logits
    return logits


def expected(model: nn.Module) -> Tensor:
    """How many entries the gates are expected to let through: the relaxed count of the difference."""
    return torch.stack([gate.open().sum() for gate in gates(model).values()]).sum()


@torch.no_grad()
def prune(model: nn.Module) -> nn.Module:
    """Keep the largest differences of the whole model and drop the gates; what is left can be trained on."""
    training = model.training
    found = gates(model.eval())
    deltas = {name: gate.delta() for name, gate in found.items()}
    model.train(training)
    [target] = (child for child in kit.attached(model, "diff_pruning") if isinstance(child, Target))
    count = int(target.kept * sum(delta.numel() for delta in deltas.values()))
    masks = sparse.choose({name: delta.abs() for name, delta in deltas.items()}, count)
    for name, gate in found.items():
        gate.w.copy_(deltas[name] * masks[name])
        gate.fix(masks[name])
    return model


def finish(model: nn.Module) -> nn.Module:
    """Prune, if that has not been done."""
    return model if all(gate.mask is not None for gate in gates(model).values()) else prune(model)


@torch.no_grad()
def merge(model: nn.Module) -> nn.Module:
    """Add the differences to the weights."""
    changed: dict[int, tuple[nn.Parameter, Tensor]] = {}
    for module in list(model.eval().modules()):
        if parametrize.is_parametrized(module):
            for suffix, entry in list(cast(nn.ModuleDict, module.parametrizations).items()):
                original = cast(nn.Parameter, entry.original)
                changed[id(original)] = original, getattr(module, suffix).clone()
                parametrize.remove_parametrizations(module, suffix, leave_parametrized=False)
    for original, value in changed.values():
        original.copy_(value)
    kit.detach(model, "diff_pruning")
    return model


def pack(model: nn.Module) -> dict[str, Tensor]:
    """What one task stores: the surviving differences and their positions."""
    state = {}
    for name, gate in gates(model).items():
        assert gate.mask is not None, "prune first"
        state[f"{name}@"] = gate.mask.flatten().nonzero()[:, 0]             # (kept here,)
        state[name] = gate.w.detach()[gate.mask]                            # (kept here,)
    return state


@torch.no_grad()
def unpack(model: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    """Take one task's differences."""
    for name, gate in gates(model).items():
        mask = torch.zeros_like(gate.w, dtype=torch.bool)
        mask.view(-1)[state[f"{name}@"]] = True
        gate.w.zero_()
        gate.w[mask] = state[name]
        gate.fix(mask)
    return model
