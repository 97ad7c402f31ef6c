"""ETHER+: the relaxed form of ETHER (bini2024ether; code_ether).

    h = H' W_0 H x + b,    H = diag(H_1, ..., H_n),    H_i = I - u_i u_i^T / |u_i|^2 + v_i v_i^T / |v_i|^2

Trained: u_in, v_in (n, d_in / n) before and u_out, v_out (n, d_out / n) behind every targeted weight, for each block of
its inputs and outputs. Each v starts as -u, so that H and H' are the identity. At inference nothing is left: both go
into W_0. The bias is not transformed.
"""

import torch
from torch import Tensor, nn

from . import _kit as kit
from ._rotated import along


class Pair(kit.Child):
    """The transformations before and behind one weight."""

    site: kit.Site

    def __init__(self, d_in: int, d_out: int, *, n: int):
        super().__init__()
        for side, d in (("in", d_in), ("out", d_out)):
            if d % n:
                raise ValueError(f"{n} blocks do not divide {d} {side}puts")
            bound = d**-0.5
            normals = torch.empty(n, d // n).uniform_(-bound, bound)
            self.register_parameter(f"u_{side}", nn.Parameter(normals))
            self.register_parameter(f"v_{side}", nn.Parameter(-normals))

    def change(self, x: Tensor, side: str) -> Tensor:
        """Return H x - x."""
        return along(x, self.get_parameter(f"v_{side}")) - along(x, self.get_parameter(f"u_{side}"))

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        bias = self.site.bias
        y = y + self.change(x, "in") @ self.site.weight.T  # (..., d_in) -> (..., d_out)
        return y + self.change(y if bias is None else y - bias, "out")

    def delta(self) -> Tensor:
        first = self.change(self.site.weight, "in")  # (d_out, d_in)
        return first + self.change((self.site.weight + first).T, "out").T


def apply(
    model: nn.Module, *, n: int = 32, targets: tuple[str, ...] = ("attn.q", "attn.v", "xattn.q", "xattn.v")
) -> nn.Module:
    """Freeze the model and transform n blocks of the inputs and outputs of every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        kit.attach(site, "ether_plus", Pair(site.d_in, site.d_out, n=n))
    return model


def merge(model: nn.Module) -> nn.Module:
    """Transform the weights."""
    return kit.fold(model, "ether_plus")
