"""DeLoRA: decoupling angles and strength in low-rank adaptation (bini2025delora).

    h = W_0 x + (lambda / r) sum_i (b_i / |b_i|) (a_i / |a_i|)^T (w * x),    w the lengths of the columns of W_0

Trained: A (r, d_in), B (d_out, r) and the strength lam (1,) beside every targeted weight. At inference nothing is
left: the sum is added to W_0. As in peft B starts at zero and norms are held above 1e-4; the authors start B at
random and subtract a frozen copy of the initial product.
"""

import math

import torch
from torch import Tensor, nn

from . import _kit as kit

TINY = 1e-4


class Bounded(nn.Module):
    """The correction beside one weight of shape (d_out, d_in)."""

    w: Tensor

    def __init__(self, weight: Tensor, *, r: int, delora_lambda: float, dropout: float):
        super().__init__()
        d_out, d_in = weight.shape
        self.A = nn.Parameter(torch.empty(r, d_in))
        self.B = nn.Parameter(torch.zeros(d_out, r))
        self.lam = nn.Parameter(torch.full((1,), delora_lambda))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
        self.register_buffer("w", weight.detach().norm(dim=0), persistent=False)        # (d_in,)
        self.dropout = nn.Dropout(dropout)

    def sizes(self) -> Tensor:
        """What brings each term to the length lambda / r, (r,)."""
        lengths = self.A.norm(dim=1).clamp(min=TINY) * self.B.norm(dim=0).clamp(min=TINY)
        sizes: Tensor = self.lam / len(self.A) / lengths
        return sizes

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        low: Tensor = (self.dropout(x) * self.w) @ self.A.T         # (..., d_in) -> (..., r)
        return y + (self.sizes() * low) @ self.B.T                  # (..., r) -> (..., d_out)

    def delta(self) -> Tensor:
        return (self.B * self.sizes()) @ self.A * self.w            # (d_out, d_in)


def apply(
    model: nn.Module, *, r: int = 8, delora_lambda: float = 12.0, dropout: float = 0.0,
    targets: tuple[str, ...] = ("attn.q", "attn.v", "xattn.q", "xattn.v"),
) -> nn.Module:
    """Freeze the model and put a bounded correction beside every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        kit.attach(site, "delora", Bounded(site.weight, r=r, delora_lambda=delora_lambda, dropout=dropout))
    return model


@torch.no_grad()
def merge(model: nn.Module) -> nn.Module:
    """Add the corrections to the weights."""
    for site, child in kit.at_sites(model, "delora", Bounded):
        site.weight.add_(child.delta())
    kit.detach(model, "delora")
    return model
