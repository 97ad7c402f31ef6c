"""ETHER: efficient finetuning via hyperplane reflections (bini2024ether; code_ether).

    h = H W_0 x + b,    H = diag(H_1, ..., H_n),    H_i = I - 2 u_i u_i^T / |u_i|^2

Trained: u (n, d_out / n), the normals of n mirrors behind every targeted weight, one for each block of its outputs.
Their lengths have no effect. A mirror is never the identity, so training does not start at the pretrained model. At
inference nothing is left: the reflections go into W_0. The bias is not reflected.
"""

import torch
from torch import Tensor, nn

from . import _kit as kit
from ._rotated import along


class Mirrors(kit.Child):
    """The mirrors behind one weight."""

    site: kit.Site

    def __init__(self, d_out: int, *, n: int):
        super().__init__()
        if d_out % n:
            raise ValueError(f"{n} blocks do not divide {d_out} outputs")
        bound = d_out**-0.5
        self.u = nn.Parameter(torch.empty(n, d_out // n).uniform_(-bound, bound))

    def after(self, _: Tensor, y: Tensor) -> Tensor:
        bias = self.site.bias
        return y - 2 * along(y if bias is None else y - bias, self.u)  # (..., d_out)

    def delta(self) -> Tensor:
        return -2 * along(self.site.weight.T, self.u).T  # (d_out, d_in)


def apply(
    model: nn.Module, *, n: int = 32, targets: tuple[str, ...] = ("attn.q", "attn.v", "xattn.q", "xattn.v")
) -> nn.Module:
    """Freeze the model and put a mirror behind each of n blocks of every targeted weight's outputs."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        kit.attach(site, "ether", Mirrors(site.d_out, n=n))
    return model


def merge(model: nn.Module) -> nn.Module:
    """Reflect the weights."""
    return kit.fold(model, "ether")
