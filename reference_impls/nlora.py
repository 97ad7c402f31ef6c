"""NLoRA: Nyström-initiated low-rank adaptation, and IntTune (guo2025nlora; code_nlora).

    A = W_0[:r, :],   N = W_0[:r, :r],   B = W_0[:, :r] at the start,   h = W_0 x + (alpha / r) B N A x

Trained: A (r, d_in), N (r, r) and B (d_out, r), or N alone if `intermediate_only`; the frozen factors are then called
A_f and B_f, which the pretrained weight gives back. As in the authors' code, the product is not taken out of the
weight at the start, and N is the block itself. At inference the product is added to W_0.
"""

import torch
from torch import Tensor, nn

from . import _kit as kit


class NLoRA(kit.Child):
    """The correction beside one weight of shape (d_out, d_in)."""

    def __init__(self, weight: Tensor, *, r: int, alpha: float, dropout: float, intermediate_only: bool):
        super().__init__()
        if r > min(weight.shape):
            raise ValueError(f"rank {r} is larger than that of a weight of {weight.shape[0]} x {weight.shape[1]}")
        first, middle, second = weight[:r].clone(), weight[:r, :r].clone(), weight[:, :r].clone()
        self.N = nn.Parameter(middle)
        if intermediate_only:
            self.register_buffer("A_f", first)
            self.register_buffer("B_f", second)
        else:
            self.A, self.B = nn.Parameter(first), nn.Parameter(second)
        self.names = ("A_f", "B_f") if intermediate_only else ("A", "B")
        self.scale = alpha / r
        self.dropout = nn.Dropout(dropout)

    @property
    def factors(self) -> tuple[Tensor, Tensor]:
        """The first factor (r, d_in) and the second one (d_out, r)."""
        first, second = (getattr(self, name) for name in self.names)
        return first, second

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        first, second = self.factors
        low: Tensor = self.dropout(x) @ first.T @ self.N.T          # (..., d_in) -> (..., r)
        return y + self.scale * (low @ second.T)                    # (..., r) -> (..., d_out)

    def delta(self) -> Tensor:
        first, second = self.factors
        return self.scale * (second @ self.N @ first)               # (d_out, d_in)


@torch.no_grad()
def apply(
    model: nn.Module, *, r: int = 8, alpha: float = 8.0, dropout: float = 0.0, intermediate_only: bool = False,
    targets: tuple[str, ...] = ("attn.*", "xattn.*", "mlp.*"),
) -> nn.Module:
    """Freeze the model and put a correction, started as parts of the weight, beside every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        child = NLoRA(site.weight, r=r, alpha=alpha, dropout=dropout, intermediate_only=intermediate_only)
        kit.attach(site, "nlora", child)
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the corrections to the weights."""
    return kit.fold(model, "nlora")
