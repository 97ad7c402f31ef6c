"""Diff pruning: parameter-efficient transfer learning with diff pruning (guo2021diffpruning).

    theta = theta_0 + z * w,    z = clamp((r - l) sigmoid(logit(u) + alpha) + l, 0, 1),  u uniform
    structured:  z * z_g,  with one more gate z_g for every parameter tensor
    loss + penalty * sum over gates of P(z > 0),    P(z > 0) = sigmoid(alpha - log(-l / r))

Every pretrained entry has a difference w and a gate alpha. During training, the gates are random (hard-concrete): often
exactly 0 or 1, yet with a gradient. `prune` keeps the share `kept` of largest |z w| of the whole model and removes the
gates. Then the rest is trained further. Trained: w, alpha and, if structured, alpha_group. Stored: the remaining
differences and their positions. At inference they are added to the weights.

The penalty is not part of the loss here. `apply` registers a hook on the gradient of every alpha, and the hook adds the
derivative of the penalty. So any training loop works unchanged, but a deep copy of the model has no penalty, because
PyTorch does not copy these hooks.

As in the authors' code, the stretched distribution has no temperature. Their code draws a gate once per step. Here it
is drawn at every use, so tied weights draw separately. In evaluation the authors keep the gates of the last step; here
u is 1/2. If gradients are accumulated, the authors add the penalty once per step, the hooks once per backward pass.
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
    """The difference of one parameter, and its gates. After `prune` it has a mask instead of gates."""

    mask: Tensor | None = None      # the entries that remain

    def __init__(self, like: Tensor, *, structured: bool, penalty: float, alpha_init: float, low: float, high: float):
        super().__init__()
        self.w = nn.Parameter(torch.zeros_like(like))
        self.alpha = nn.Parameter(torch.full_like(like, alpha_init))
        if structured:
            self.alpha_group = nn.Parameter(torch.full((1,), alpha_init))
        self.penalty, self.low, self.high = penalty, low, high
        self.noise: dict[str, Tensor] = {}      # recorded u of a gate, instead of drawn ones

    def gates(self) -> dict[str, nn.Parameter]:
        return {n: p for n, p in self.named_parameters() if n != "w"}

    def z(self, name: str, alpha: Tensor) -> Tensor:
        """Draw a gate in training. In evaluation, compute it at u = 1/2."""
        u = self.noise.get(name, torch.rand_like(alpha)) if self.training else torch.full_like(alpha, 0.5)
        return ((alpha + u.clamp(1e-4, 1 - 1e-4).logit()).sigmoid() * (self.high - self.low) + self.low).clamp(0, 1)

    def chances(self) -> dict[str, Tensor]:
        """Return P(z > 0) of each gate."""
        shift = math.log(-self.low / self.high)
        return {name: (alpha - shift).sigmoid() for name, alpha in self.gates().items()}

    def open(self) -> Tensor:
        """Return the probability that an entry's difference is used, for every entry of the parameter."""
        return math.prod(self.chances().values(), start=torch.ones_like(self.w))

    def penalise(self, name: str, gradient: Tensor) -> Tensor:
        """Add the derivative of `penalty * chance` to the gradient of a gate's alpha. This is a gradient hook."""
        s = self.chances()[name].detach()
        return gradient + self.penalty * s * (1 - s)

    def delta(self) -> Tensor:
        """Return the change of the parameter."""
        if self.mask is not None:
            return self.w * self.mask
        return math.prod((self.z(name, alpha) for name, alpha in self.gates().items()), start=self.w)

    def fix(self, mask: Tensor) -> None:
        """Remove the gates. From now on only the entries of the mask have a difference and a gradient."""
        for name in list(self.gates()):
            delattr(self, name)
        self.mask = mask


class Moved(nn.Module):
    """A parametrisation: the weight is its pretrained value plus the difference."""

    gate: Gate      # not a submodule

    def __init__(self, gate: Gate):
        super().__init__()
        kit.share(self, gate=gate)

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.gate.delta()


class Target(kit.Child):
    """The share of entries that `prune` keeps."""

    def __init__(self, kept: float):
        super().__init__()
        self.kept = kept


def apply(
    model: nn.Module, *, kept: float = 0.005, structured: bool = True, penalty: float = 1.25e-7,
    alpha_init: float = 5.0, low: float = -1.5, high: float = 1.5,
) -> nn.Module:
    """Freeze the model, and add a difference and a gate to every pretrained entry."""
    kit.freeze(model)
    settings = {"penalty": penalty, "alpha_init": alpha_init, "low": low, "high": high}
    gates = {}
    for name, parameter in sparse.parameters(model).items():
        path, _, suffix = name.rpartition(".")
        gate = gates[id(parameter)] = Gate(parameter.detach(), structured=structured, **settings)
        kit.attach(model.get_submodule(path), f"diff_pruning.{suffix}", gate)
        for gate_name, alpha in gate.gates().items():
            alpha.register_hook(partial(gate.penalise, gate_name))
    kit.attach(model, "diff_pruning.target", Target(kept))
    for module in list(model.modules()):
        for suffix, parameter in list(module.named_parameters(recurse=False)):
            if id(parameter) in gates:      # a tied weight at every module that uses it
                parametrize.register_parametrization(module, suffix, Moved(gates[id(parameter)]), unsafe=True)
    return model


def gates(model: nn.Module) -> dict[str, Gate]:
    """Return the gate of every parameter, by the gate's name in the model."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Gate)}


def expected(model: nn.Module) -> Tensor:
    """Return the expected number of entries whose difference is used."""
    return torch.stack([gate.open().sum() for gate in gates(model).values()]).sum()


@torch.no_grad()
def prune(model: nn.Module) -> nn.Module:
    """Keep the largest differences of the whole model and remove the gates. The rest can be trained further."""
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
    """Prune, unless that has been done."""
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
    """Return what one task stores: the remaining differences and their positions."""
    state = {}
    for name, gate in gates(model).items():
        assert gate.mask is not None, "prune first"
        state[f"{name}@"] = gate.mask.flatten().nonzero()[:, 0]             # (kept here,)
        state[name] = gate.w.detach()[gate.mask]                            # (kept here,)
    return state


@torch.no_grad()
def unpack(model: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    """Write the stored differences of one task, and remove the gates."""
    for name, gate in gates(model).items():
        mask = torch.zeros_like(gate.w, dtype=torch.bool)
        mask.view(-1)[state[f"{name}@"]] = True
        gate.w.zero_()
        gate.w[mask] = state[name]
        gate.fix(mask)
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Run the method alone on recorded inputs; for the golden vectors."""
    for path, gate in gates(model).items():
        gate.noise = {name: inputs[f"u.{path}.{name}"] for name in gate.gates()}
    logits: Tensor = model(input_ids=inputs["input_ids"]).logits
    return logits
