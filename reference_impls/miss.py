"""MiSS: matrix shard sharing (kang2024miss; code_miss#README.md).

    h = W_0 x + D^T sum_i x_i,    x_i the consecutive pieces of x, of length r each (the last one filled up with zeros)

Trained: D (r, d_out) beside every targeted weight, zero at the start. At inference nothing is left: D^T is added to
every r columns of W_0. This is the form that peft has by default; its variant `mini` is our miss_mini, and `bat`, the
first form of the method, our bat.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from . import _kit as kit


class Shard(kit.Child):
    """The shared shard of one weight of shape (d_out, d_in); `height` outputs have one of their own each."""

    def __init__(self, d_in: int, d_out: int, *, r: int, height: int, dropout: float):
        super().__init__()
        if r > d_in or d_out % height:
            raise ValueError(f"a shard of {r} x {height} does not fit a weight of {d_in} x {d_out}")
        self.D = nn.Parameter(torch.zeros(r, height))
        self.d_in, self.times = d_in, d_out // height
        self.dropout = nn.Dropout(dropout)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        r = len(self.D)
        pieces = pad(self.dropout(x), (0, -self.d_in % r)).unflatten(-1, (-1, r))       # (..., d_in / r, r)
        low: Tensor = pieces.sum(-2)                                                    # (..., r)
        return y + (low @ self.D).repeat(*[1] * (low.ndim - 1), self.times)             # (..., d_out)

    def delta(self) -> Tensor:
        rows = self.D.T.repeat(self.times, -(-self.d_in // len(self.D)))                # (d_out, d_in, rounded up)
        return rows[:, : self.d_in]


def apply(
    model: nn.Module, *, r: int = 64, dropout: float = 0.0,
    targets: tuple[str, ...] = ("attn.*", "xattn.*", "mlp.*"),
) -> nn.Module:
    """Freeze the model and put a shard beside every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        kit.attach(site, "miss", Shard(site.d_in, site.d_out, r=r, height=site.d_out, dropout=dropout))
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the repeated shards to the weights."""
    return kit.fold(model, "miss")
