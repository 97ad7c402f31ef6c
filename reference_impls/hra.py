"""HRA: Householder reflection adaptation (yuan2024hra; code_hra).

    h = W_0 H_1 H_2 ... H_r x,    H_i = I - 2 u_i u_i^T / |u_i|^2

Trained: the normals u_i of r mirrors, as columns of U (d_in, r) beside every targeted weight. They start as pairs of
equal mirrors, whose product is the identity, hence the even r. At inference nothing is left: the product of
the mirrors, which is I plus a matrix of rank at most r, goes into W_0. A training loop may add lambda *
`penalty(model)` to its loss, which keeps the mirrors apart; peft has Gram-Schmidt instead, which this lacks.
"""

import math

import torch
from torch import Tensor, nn

from . import _kit as kit
from ._rotated import Rotated
from ._rotated import merge as merge_rotated


class HRA(Rotated):
    """The chain of reflections before one weight."""

    def __init__(self, d_in: int, *, r: int):
        super().__init__()
        half = torch.empty(d_in, r // 2)
        nn.init.kaiming_uniform_(half, a=math.sqrt(5))
        self.U = nn.Parameter(half.repeat_interleave(2, dim=1))     # (d_in, r)

    def rotate(self, x: Tensor) -> Tensor:
        for u in nn.functional.normalize(self.U, dim=0).T.flip(0):  # the last mirror is the nearest to the input
            x = x - 2 * (x @ u).unsqueeze(-1) * u                   # (..., d_in)
        return x


def penalty(model: nn.Module) -> Tensor:
    """The sum over all weights of ||I - N^T N||, N the unit normals."""
    normals = [nn.functional.normalize(child.U, dim=0) for _, child in kit.at_sites(model, "hra", HRA)]     # (d_in, r)
    return torch.stack([torch.linalg.norm(torch.eye(n.shape[1]).to(n) - n.T @ n) for n in normals]).sum()


def apply(
    model: nn.Module, *, r: int = 8, targets: tuple[str, ...] = ("attn.q", "attn.v", "xattn.q", "xattn.v")
) -> nn.Module:
    """Freeze the model and put r mirrors, an even number, before every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        kit.attach(site, "hra", HRA(site.d_in, r=r))
    return model


def merge(model: nn.Module) -> nn.Module:
    """Reflect the weights."""
    return merge_rotated(model, "hra")


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the method alone on recorded inputs; for the golden vectors."""
    [(site, _)] = kit.at_sites(model, "hra", HRA)
    return {"output": site.module(inputs["x"]), "penalty": penalty(model)}
