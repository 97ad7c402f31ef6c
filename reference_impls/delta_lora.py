"""Delta-LoRA: fine-tuning high-rank parameters with the delta of low-rank matrices (zi2023deltalora).

    h = W x + (alpha / r) B A x;   after each step t > start:   W <- W + ratio (alpha / r) (B' A' - B A)

Trained: A (r, d_in) and B (d_out, r) beside every targeted weight. W itself follows: a training loop calls
`propagate(model, t)` after step t of its optimiser. The move of W is kept beside it as `change` (d_out, d_in), so
that W stays shared until merging; `finish` folds the factors in, and `change` is what a task stores. At inference it
is added to W. The authors publish no code; their defaults are recalled. Steps before `start` train the factors only.
"""

import math

import torch
from torch import Tensor, nn

from . import _kit as kit


class DeltaLoRA(kit.Child):
    """The correction beside one weight of shape (d_out, d_in), and the move of that weight."""

    change: Tensor

    def __init__(self, d_in: int, d_out: int, *, r: int, alpha: float, ratio: float, start: int):
        super().__init__()
        self.A = nn.Parameter(torch.empty(r, d_in))
        self.B = nn.Parameter(torch.zeros(d_out, r))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
        self.register_buffer("change", torch.zeros(d_out, d_in))
        self.scale, self.ratio, self.start = alpha / r, ratio, start
        self.last: tuple[Tensor, Tensor] | None = None      # A and B after the last step

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        y = y + x @ self.change.T                                       # (..., d_in) -> (..., d_out)
        return y + self.scale * (x @ self.A.T @ self.B.T) if hasattr(self, "A") else y

    def delta(self) -> Tensor:
        return self.change + self.scale * (self.B @ self.A) if hasattr(self, "A") else self.change     # (d_out, d_in)

    @torch.no_grad()
    def propagate(self, step: int) -> None:
        if step > self.start and self.last is not None:
            a, b = self.last
            self.change += self.ratio * self.scale * (self.B @ self.A - b @ a)
        self.last = self.A.detach().clone(), self.B.detach().clone()


def apply(
    model: nn.Module, *, r: int = 8, alpha: float = 16.0, ratio: float = 2.0, start: int = 500,
    targets: tuple[str, ...] = ("attn.q", "attn.v", "xattn.q", "xattn.v"),
) -> nn.Module:
    """Freeze the model and put a low-rank correction, and a place for the weight's own move, beside each target."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        child = DeltaLoRA(site.d_in, site.d_out, r=r, alpha=alpha, ratio=ratio, start=start)
        kit.attach(site, "delta_lora", child)
    return propagate(model, 0)


def propagate(model: nn.Module, step: int) -> nn.Module:
    """Let every weight follow what step `step` (counted from one) of the optimiser did to its product."""
    for _, child in kit.at_sites(model, "delta_lora", DeltaLoRA):
        child.propagate(step)
    return model


@torch.no_grad()
def finish(model: nn.Module) -> nn.Module:
    """Fold the factors into the change."""
    for _, child in kit.at_sites(model, "delta_lora", DeltaLoRA):
        child.change.copy_(child.delta())
        del child.A, child.B
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the move and the correction to the weights."""
    return kit.fold(model, "delta_lora")
