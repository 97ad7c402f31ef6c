"""GraLoRA: granular low-rank adaptation (jung2025gralora).

    h_j = W_0j x + alpha / (r + hybrid_r) (sum_n B_jn A_jn x_n + B_hj A_h x),    x_n and h_j pieces, k of each

Trained beside every targeted weight: A (k, d_in / k, r), which holds A_jn for input piece n and all j, and
B (k, r, d_out / k), which holds B_jn for output piece j and all n, r / k each; with hybrid_r > 0 also a plain LoRA A_h
(hybrid_r, d_in), B_h (d_out, hybrid_r). At inference nothing is left: the grid is added to W_0. In the authors'
code r contains hybrid_r; here, as in peft, hybrid_r comes on top.
"""

import math

import torch
from torch import Tensor, nn

from . import _kit as kit


class Grid(kit.Child):
    """The corrections of the blocks of one weight of shape (d_out, d_in)."""

    def __init__(self, d_in: int, d_out: int, *, r: int, alpha: float, k: int, hybrid_r: int, dropout: float):
        super().__init__()
        if r % k or d_in % k or d_out % k:
            raise ValueError(f"k = {k} must divide r = {r} and the weight's sides, {d_in} and {d_out}")
        self.A = nn.Parameter(torch.empty(k, d_in // k, r).uniform_(-1, 1) / math.sqrt(d_in // k))
        self.B = nn.Parameter(torch.zeros(k, r, d_out // k))
        self.hybrid = hybrid_r > 0
        if self.hybrid:
            self.A_h = nn.Parameter(torch.empty(hybrid_r, d_in))
            self.B_h = nn.Parameter(torch.zeros(d_out, hybrid_r))
            nn.init.kaiming_uniform_(self.A_h, a=math.sqrt(5))
        self.scale = alpha / (r + hybrid_r)
        self.dropout = nn.Dropout(dropout)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        k = len(self.A)
        x = self.dropout(x)
        low = torch.einsum("...ni,nir->...nr", x.unflatten(-1, (k, -1)), self.A)    # (..., n, r)
        mixed = low.unflatten(-1, (k, -1)).transpose(-3, -2).flatten(-2)            # (..., j, r), piece n in r
        y = y + self.scale * torch.einsum("...jr,jro->...jo", mixed, self.B).flatten(-2)    # (..., d_out)
        return y + self.scale * (x @ self.A_h.T @ self.B_h.T) if self.hybrid else y

    def delta(self) -> Tensor:
        k = len(self.A)
        first, second = self.A.unflatten(2, (k, -1)), self.B.unflatten(1, (k, -1))  # (n, i, j, s), (j, n, s, o)
        blocks = torch.einsum("nijs,jnso->joni", first, second)                     # (j, o, n, i)
        delta = blocks.flatten(2).flatten(0, 1)                                     # (d_out, d_in)
        return self.scale * (delta + self.B_h @ self.A_h if self.hybrid else delta)


def apply(
    model: nn.Module, *, r: int = 32, alpha: float = 64.0, k: int = 2, hybrid_r: int = 0, dropout: float = 0.05,
    targets: tuple[str, ...] = ("attn.*", "xattn.*", "mlp.*"),
) -> nn.Module:
    """Freeze the model and put a grid of corrections beside every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        child = Grid(site.d_in, site.d_out, r=r, alpha=alpha, k=k, hybrid_r=hybrid_r, dropout=dropout)
        kit.attach(site, "gralora", child)
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the corrections to the weights."""
    return kit.fold(model, "gralora")
