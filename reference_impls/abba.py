"""ABBA: a Hadamard product of two trained low-rank matrices (singhal2025abba; code_abba#abba.py:ABBAConfig).

    h = W_0 x + s (B_1 A_1 * B_2 A_2) x,    s = (alpha1 alpha2)^(1/2)

Trained: A_1 (r1, d_in), B_1 (d_out, r1), A_2 (r2, d_in) and B_2 (d_out, r2) beside every targeted weight. The first
pair starts as the weight's best approximation of rank r1, B_2 at zero. The product of the two has rank up to r1 r2, and
is computed as one pair of factors of that width: their columns and rows are all products of one of each pair. At
inference it is added to W_0, which itself is unchanged.
"""

import math

import torch
from torch import Tensor, nn

from . import _kit as kit
from . import pissa


class ABBA(kit.Child):
    """The correction beside one weight of shape (d_out, d_in)."""

    def __init__(self, weight: Tensor, *, r1: int, r2: int, alpha1: float, alpha2: float):
        super().__init__()
        d_out, d_in = weight.shape
        if r1 > min(d_in, d_out):
            raise ValueError(f"rank {r1} is larger than that of a weight of {d_out} x {d_in}")
        b, a = pissa.principal(weight.detach(), r1, 1.0)
        self.A_1, self.B_1 = nn.Parameter(a), nn.Parameter(b)
        self.A_2 = nn.Parameter(nn.init.kaiming_uniform_(torch.empty(r2, d_in)))
        self.B_2 = nn.Parameter(torch.zeros(d_out, r2))
        self.scale = math.sqrt(alpha1 * alpha2)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        down = (self.A_1.unsqueeze(1) * self.A_2).flatten(0, 1)                     # (r1 * r2, d_in)
        up = (self.B_1.unsqueeze(2) * self.B_2.unsqueeze(1)).flatten(1)             # (d_out, r1 * r2)
        return y + self.scale * (x @ down.T @ up.T)                                 # (..., d_out)

    def delta(self) -> Tensor:
        return self.scale * (self.B_1 @ self.A_1) * (self.B_2 @ self.A_2)           # (d_out, d_in)


def apply(
    model: nn.Module, *, r1: int = 32, r2: int = 32, alpha1: float = 32.0, alpha2: float = 32.0,
    targets: tuple[str, ...] = ("attn.*", "xattn.*", "mlp.*"),
) -> nn.Module:
    """Freeze the model and put a product of two corrections beside every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        kit.attach(site, "abba", ABBA(site.weight, r1=r1, r2=r2, alpha1=alpha1, alpha2=alpha2))
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the corrections to the weights."""
    return kit.fold(model, "abba")
