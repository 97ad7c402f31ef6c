"""KRAdapter: weight updates from a Khatri-Rao product (albert2025kradapter; code_kradapter#README.md).

    h = W_0 x + s D x,    row i of D = the Kronecker product of row i of V with row i of U

Trained, beside every targeted weight with the shorter side m and the longer side n: U (m, k) and V (m, ceil(n / k))
with k the root of m, rounded down. D has a row for each number of the shorter side, cut to the length of the longer
side, and is transposed where the input is the shorter one. Its rank is usually full. U starts at zero. At inference D
is added to W_0.
"""

import math

import torch
from torch import Tensor, nn

from . import _kit as kit


class KhatriRao(kit.Child):
    """The correction beside one weight of shape (d_out, d_in)."""

    def __init__(self, d_in: int, d_out: int, *, scaling: float):
        super().__init__()
        short, self.long = sorted((d_in, d_out))
        k = math.isqrt(short)
        self.U = nn.Parameter(torch.zeros(short, k))
        self.V = nn.Parameter(torch.empty(short, -(-self.long // k)))
        nn.init.kaiming_uniform_(self.V, a=5)
        self.flat, self.scaling = d_in < d_out, scaling

    def product(self) -> Tensor:
        """Return D as (d_out, d_in)."""
        d = (self.V.unsqueeze(2) * self.U.unsqueeze(1)).flatten(1)[:, : self.long]      # (short, long)
        return d.T if self.flat else d

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        return y + self.scaling * (x @ self.product().T)            # (..., d_in) -> (..., d_out)

    def delta(self) -> Tensor:
        return self.scaling * self.product()                        # (d_out, d_in)


def apply(
    model: nn.Module, *, scaling: float = 2.0, targets: tuple[str, ...] = ("attn.q", "attn.v", "xattn.q", "xattn.v")
) -> nn.Module:
    """Freeze the model and put a Khatri-Rao product beside every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        kit.attach(site, "kradapter", KhatriRao(site.d_in, site.d_out, scaling=scaling))
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the corrections to the weights."""
    return kit.fold(model, "kradapter")
