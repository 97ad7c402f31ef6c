"""L-LoRA: the tangent of a LoRA at its start (tang2024llora).

    h = W_0 x + f(phi_0; x) + J(phi_0; x) (phi - phi_0),    f(A, B; x) = (alpha / r) B A x,    phi_0 = (A, 0)

Trained: B (d_out, r). The tangent is computed by forward-mode differentiation, as in the official code, which
also hands A (r, d_in) to the optimiser: its derivative is B_0 = 0, so it never moves, and the function is that of
LoRA-FA. At inference nothing is left: (alpha / r) B A is added to W_0. `vectors` says how far training has come,
and `fuse` adds up what several tasks have learned from the same start.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.func import jvp

from . import _kit as kit
from . import lora

Pair = tuple[Tensor, Tensor]


def tangent(x: Tensor, start: Pair, now: Pair) -> Tensor:
    """B A x to first order around the start: (..., d_in) -> (..., d_out)."""
    moved = tuple(n - s for n, s in zip(now, start, strict=True))
    value, change = cast(Pair, jvp(lambda a, b: x @ a.T @ b.T, start, moved))
    return value + change


class LinearLoRA(lora.LoRA):
    """A LoRA that is replaced by its tangent."""

    def __init__(self, d_in: int, d_out: int, *, r: int, alpha: float, dropout: float):
        super().__init__(d_in, d_out, r=r, alpha=alpha, dropout=dropout)
        self.A.requires_grad_(False)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        start = self.A.detach(), torch.zeros_like(self.B)
        return y + self.scale * tangent(self.dropout(x), start, (self.A, self.B))


def vectors(model: nn.Module) -> list[Tensor]:
    """The task's vector: what training has added to the start, for each place, (d_out, r)."""
    return [child.B.detach().clone() for _, child in kit.at_sites(model, "l_lora", LinearLoRA)]


@torch.no_grad()
def fuse(model: nn.Module, tasks: Sequence[Sequence[Tensor]], scale: float) -> nn.Module:
    """Give the model the scaled sum of several tasks' vectors, all from the start that this model has."""
    for (_, child), *parts in zip(kit.at_sites(model, "l_lora", LinearLoRA), *tasks, strict=True):
        child.B.copy_(scale * torch.stack(parts).sum(0))
    return model


def apply(
    model: nn.Module, *, r: int = 16, alpha: float = 32.0, dropout: float = 0.1,
    targets: tuple[str, ...] = ("attn.q", "attn.v", "xattn.q", "xattn.v"),
) -> nn.Module:
    """Freeze the model and put the tangent of a LoRA beside every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        kit.attach(site, "l_lora", LinearLoRA(site.d_in, site.d_out, r=r, alpha=alpha, dropout=dropout))
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the corrections to the weights."""
    return kit.fold(model, "l_lora")


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the method alone, and the tangent at a recorded start; for the golden vectors."""
    [(site, child)] = kit.at_sites(model, "l_lora", LinearLoRA)
    start = inputs["A0"], inputs["B0"]
    return {"output": site.module(inputs["x"]), "tangent": tangent(inputs["x"], start, (child.A, child.B))}
