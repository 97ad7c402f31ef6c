"""MELoRA: mini-ensemble low-rank adapters (ren2024melora; code_melora).

    h = W_0 x + (alpha / r) concat_i B_i A_i x_i,    x_i the i-th of n equal parts of x

Trained: n small LoRAs beside every targeted weight, A (n, r, d_in / n) and B (n, d_out / n, r). Each reads one part of
the input and writes one part of the output, so together they are a block-diagonal matrix of rank n r, with as many
parameters as one LoRA of rank r. At inference it is added to W_0.
"""

import math

import torch
from torch import Tensor, nn

from . import _kit as kit


class Minis(kit.Child):
    """The small corrections beside one weight of shape (d_out, d_in)."""

    def __init__(self, d_in: int, d_out: int, *, r: int, n: int, alpha: float, dropout: float):
        super().__init__()
        if d_in % n or d_out % n:
            raise ValueError(f"n = {n} must divide the sides of a weight of {d_out} x {d_in}")
        self.A = nn.Parameter(torch.empty(n, r, d_in // n).uniform_(-1, 1) / math.sqrt(d_in // n))
        self.B = nn.Parameter(torch.zeros(n, d_out // n, r))
        self.scale = alpha / r
        self.dropout = nn.Dropout(dropout)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        parts: Tensor = self.dropout(x).unflatten(-1, (len(self.A), -1))        # (..., n, d_in / n)
        low = torch.einsum("...ni,nri->...nr", parts, self.A)
        return y + self.scale * torch.einsum("...nr,nor->...no", low, self.B).flatten(-2)       # (..., d_out)

    def delta(self) -> Tensor:
        blocks: Tensor = torch.block_diag(*(self.B @ self.A))                   # (d_out, d_in)
        return self.scale * blocks


def apply(
    model: nn.Module, *, r: int = 8, n: int = 2, alpha: float = 16.0, dropout: float = 0.05,
    targets: tuple[str, ...] = ("attn.q", "attn.v", "xattn.q", "xattn.v"),
) -> nn.Module:
    """Freeze the model and put small corrections beside every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        child = Minis(site.d_in, site.d_out, r=r, n=n, alpha=alpha, dropout=dropout)
        kit.attach(site, "melora", child)
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the corrections to the weights."""
    return kit.fold(model, "melora")
