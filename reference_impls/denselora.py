"""DenseLoRA: dense low-rank adaptation (mu2025denselora; code_denselora).

    h = W_0 x + (alpha / r) gelu(D M gelu(E x))

Trained: for every targeted role an encoder E (r, d_in) and a decoder D (d_out, r), which all its layers share, and
beside every targeted weight M (r, r). D starts at zero. Dropout acts on x and behind both GELUs. All of it is kept at
inference, because the correction is not linear.
"""

import math

import torch
from torch import Tensor, nn

from . import _kit as kit


class Pair(kit.Child):
    """The encoder and the decoder that all weights of one role share."""

    def __init__(self, d_in: int, d_out: int, *, r: int):
        super().__init__()
        self.E = nn.Parameter(torch.empty(r, d_in))
        self.D = nn.Parameter(torch.zeros(d_out, r))
        nn.init.kaiming_uniform_(self.E, a=math.sqrt(5))


class Dense(kit.Child):
    """The correction beside one weight of shape (d_out, d_in)."""

    pair: Pair          # not a submodule

    def __init__(self, pair: Pair, *, r: int, alpha: float, dropout: float):
        super().__init__()
        kit.share(self, pair=pair)
        self.M = nn.Parameter(torch.empty(r, r))
        nn.init.kaiming_uniform_(self.M, a=math.sqrt(5))
        self.scale = alpha / r
        self.dropout = nn.Dropout(dropout)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        gelu, linear = nn.functional.gelu, nn.functional.linear
        low = self.dropout(gelu(linear(self.dropout(x), self.pair.E)))              # (..., d_in) -> (..., r)
        change: Tensor = self.dropout(gelu(linear(linear(low, self.M), self.pair.D)))       # (..., d_out)
        return y + self.scale * change


def apply(
    model: nn.Module, *, r: int = 16, alpha: float = 32.0, dropout: float = 0.05,
    targets: tuple[str, ...] = ("attn.q", "attn.k", "attn.v", "mlp.up", "mlp.down"),
) -> nn.Module:
    """Freeze the model, and put a small matrix between shared matrices beside every targeted weight."""
    kit.freeze(model)
    for role, sites in kit.by_role(model, targets).items():
        pair = Pair(sites[0].d_in, sites[0].d_out, r=r)
        kit.attach(model, f"denselora.{role.replace('.', '_')}", pair)
        for site in sites:
            kit.attach(site, "denselora", Dense(pair, r=r, alpha=alpha, dropout=dropout))
    return model
