"""LoRI: LoRA with reduced interference (zhang2025lori; code_lori).

    phase 1: train B;   K = 1 where |B| is among its largest over all weights, a share `kept`
    phase 2: from B = 0 again:   h = W_0 x + (alpha / r) (K B) A x

Trained: in phase 1 all of B (d_out, r) beside every targeted weight, then the entries in K; A (r, d_in) is random and
frozen. `calibrate` is a plain phase 1, one step of gradient descent per loss. Any training will do instead, followed by
`prune`. Stored: A, the chosen entries of B and their positions. At inference the product is added to W_0.
"""

import math
from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor, nn

from . import _kit as kit
from . import _sparse as sparse


class LoRI(kit.Child):
    """The correction beside one weight of shape (d_out, d_in)."""

    A: Tensor

    def __init__(self, d_in: int, d_out: int, *, r: int, alpha: float, kept: float):
        super().__init__()
        self.register_buffer("A", nn.init.kaiming_uniform_(torch.empty(r, d_in), a=math.sqrt(5)))
        self.B = nn.Parameter(torch.zeros(d_out, r))
        self.scale, self.kept = alpha / r, kept
        self.mask = torch.ones(d_out, r, dtype=torch.bool)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        return y + self.scale * (x @ self.A.T @ self.B.T)           # (..., d_in) -> (..., d_out)

    def delta(self) -> Tensor:
        return self.B @ self.A * self.scale                         # (d_out, d_in)


def apply(
    model: nn.Module, *, r: int = 32, alpha: float = 64.0, kept: float = 0.1,
    targets: tuple[str, ...] = ("attn.*", "xattn.*", "mlp.*"),
) -> nn.Module:
    """Freeze the model and put a correction with a frozen first factor beside every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        kit.attach(site, "lori", LoRI(site.d_in, site.d_out, r=r, alpha=alpha, kept=kept))
    return model


@torch.no_grad()
def prune(model: nn.Module) -> nn.Module:
    """End phase 1: choose the largest entries, set all to zero, and let only the chosen ones be trained."""
    children = dict(enumerate(_children(model)))
    sizes = {str(i): child.B.abs() for i, child in children.items()}
    count = int(children[0].kept * sum(size.numel() for size in sizes.values()))
    masks = sparse.choose(sizes, count)
    for i, child in children.items():
        child.mask = masks[str(i)]
        child.B.zero_()
        child.B.register_hook(partial(torch.mul, child.mask))
    return model


def calibrate(model: nn.Module, losses: Iterable[Tensor], lr: float = 1e-2) -> nn.Module:
    """Run a plain phase 1, one step of gradient descent per loss, and end it."""
    factors = [child.B for child in _children(model)]
    for loss in losses:
        gradients = torch.autograd.grad(loss, factors)
        with torch.no_grad():
            for factor, gradient in zip(factors, gradients, strict=True):
                factor.sub_(lr * gradient)
    return prune(model)


def merge(model: nn.Module) -> nn.Module:
    """Add the corrections to the weights."""
    return kit.fold(model, "lori")


def pack(model: nn.Module) -> dict[str, Tensor]:
    """What one task stores: the first factors, and values and positions of the chosen entries of the second."""
    state: dict[str, Tensor] = {}
    for i, child in enumerate(_children(model)):
        state[f"{i}.A"] = child.A.clone()
        state[f"{i}.B"] = child.B.detach()[child.mask]                  # (kept here,)
        state[f"{i}.B@"] = child.mask.flatten().nonzero()[:, 0]         # (kept here,)
    return state


@torch.no_grad()
def unpack(model: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    """Put one task's numbers into fresh corrections."""
    for i, child in enumerate(_children(model)):
        child.A.copy_(state[f"{i}.A"])
        child.B.zero_().view(-1)[state[f"{i}.B@"]] = state[f"{i}.B"]
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """End a phase 1 whose result is `moved`, and run the module on `x` with the factors there are; for the vectors."""
    [(site, child)] = kit.at_sites(model, "lori", LoRI)
    factor = child.B.detach().clone()
    child.B.data.copy_(inputs["moved"])
    prune(model)
    child.B.data.copy_(factor)
    return {"output": site.module(inputs["x"]), "mask": child.mask}


def _children(model: nn.Module) -> list[LoRI]:
    return [child for _, child in kit.at_sites(model, "lori", LoRI)]
