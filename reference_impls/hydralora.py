"""HydraLoRA: an asymmetric LoRA with one matrix down and several up (tian2024hydralora; code_hydralora).

    h = W_0 x + (alpha / r) sum over i of omega_i(x) B_i A x,    omega(x) = softmax(G x)

Trained, beside every targeted weight: one A (r, d_in), which all heads share, B (heads, d_out, r), and a router
G (heads, d_in), which weighs the heads for each token. The weights depend on the input, so nothing can be merged.
"""

import math

import torch
from torch import Tensor, nn

from . import _kit as kit


class Hydra(kit.Child):
    """The correction beside one weight of shape (d_out, d_in)."""

    def __init__(self, d_in: int, d_out: int, *, r: int, alpha: float, heads: int, dropout: float):
        super().__init__()
        self.G = nn.Parameter(torch.empty(heads, d_in))
        self.A = nn.Parameter(torch.empty(r, d_in))
        self.B = nn.Parameter(torch.zeros(heads, d_out, r))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
        nn.init.kaiming_uniform_(self.G, a=math.sqrt(5))
        self.scale = alpha / r
        self.dropout = nn.Dropout(dropout)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        omega = torch.softmax(x @ self.G.T, dim=-1)                         # (..., heads)
        low: Tensor = self.dropout(x) @ self.A.T                            # (..., r)
        weighed = (omega.unsqueeze(-1) * low.unsqueeze(-2)).flatten(-2)     # (..., heads * r)
        up = self.B.transpose(1, 2).flatten(0, 1)                           # (heads * r, d_out)
        return y + self.scale * (weighed @ up)


def apply(
    model: nn.Module, *, r: int = 4, alpha: float = 32.0, heads: int = 4, dropout: float = 0.05,
    targets: tuple[str, ...] = ("mlp.*",),
) -> nn.Module:
    """Freeze the model and put a routed correction beside every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        child = Hydra(site.d_in, site.d_out, r=r, alpha=alpha, heads=heads, dropout=dropout)
        kit.attach(site, "hydralora", child)
    return model
