"""DeLoRA: decoupling angles and strength in low-rank adaptation (bini2025delora).

    h = W_0 x + (lambda / r) sum_i (b_i a_i^T / (|b_i| |a_i|) - b_0i a_0i^T / (|b_0i| |a_0i|)) (w * x)
    w the lengths of the columns of W_0

Trained: A (r, d_in), B (d_out, r) and the strength lam (1,) beside every targeted weight. A and B start at random, and
the frozen copies A_0 and B_0 of their start are subtracted, so that the first step starts from the pretrained model. At
inference nothing is left: the difference is added to W_0. As in peft norms are held above 1e-4.
"""

import math

import torch
from torch import Tensor, nn

from . import _kit as kit

TINY = 1e-4


class Bounded(kit.Child):
    """The correction beside one weight of shape (d_out, d_in)."""

    w: Tensor
    A_0: Tensor
    B_0: Tensor

    def __init__(self, weight: Tensor, *, r: int, delora_lambda: float, dropout: float):
        super().__init__()
        d_out, d_in = weight.shape
        self.A = nn.Parameter(torch.empty(r, d_in))
        self.B = nn.Parameter(torch.empty(d_out, r))
        self.lam = nn.Parameter(torch.full((1,), delora_lambda))
        for factor in (self.A, self.B):
            nn.init.kaiming_uniform_(factor, a=math.sqrt(5))
        self.register_buffer("A_0", self.A.detach().clone())
        self.register_buffer("B_0", self.B.detach().clone())
        self.register_buffer("w", weight.detach().norm(dim=0), persistent=False)        # (d_in,)
        self.dropout = nn.Dropout(dropout)

    def sizes(self, a: Tensor, b: Tensor) -> Tensor:
        """The factors (r,) that bring each term of B A to the length lambda / r."""
        lengths = a.norm(dim=1).clamp(min=TINY) * b.norm(dim=0).clamp(min=TINY)
        sizes: Tensor = self.lam / len(a) / lengths
        return sizes

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        x = self.dropout(x) * self.w
        for sign, a, b in ((1, self.A, self.B), (-1, self.A_0, self.B_0)):
            y = y + (sign * self.sizes(a, b) * (x @ a.T)) @ b.T     # (..., d_in) -> (..., r) -> (..., d_out)
        return y

    def bounded(self, a: Tensor, b: Tensor) -> Tensor:
        """The sum (d_out, d_in) of the normalised terms, as long as lambda at most, over the lengths of the columns."""
        return (b * self.sizes(a, b)) @ a

    def delta(self) -> Tensor:
        return (self.bounded(self.A, self.B) - self.bounded(self.A_0, self.B_0)) * self.w       # (d_out, d_in)


def apply(
    model: nn.Module, *, r: int = 8, delora_lambda: float = 12.0, dropout: float = 0.0,
    targets: tuple[str, ...] = ("attn.q", "attn.v", "xattn.q", "xattn.v"),
) -> nn.Module:
    """Freeze the model and put a bounded correction beside every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        kit.attach(site, "delora", Bounded(site.weight, r=r, delora_lambda=delora_lambda, dropout=dropout))
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the corrections to the weights."""
    return kit.fold(model, "delora")
