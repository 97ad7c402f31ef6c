"""Bat: block affine transformation (kang2024miss; code_bone#llama-demo/boneLinear.py:BoneLinear).

    W_oi <- W_oi + W_oi D_o + D_o        W_oi the block of W_0 in row o and column i of blocks, r by r

Trained: D (d_out / r, r, r) beside every targeted weight, zero at the start. At inference nothing is left: the change
is added to W_0. The authors also have a form where a column of blocks shares a matrix. peft has the one here, as
MissConfig(init_weights="bat"). Like ours, both compute the changed weight in each step.
"""

import torch
from torch import Tensor, nn

from . import _kit as kit


class Blocks(kit.Child):
    """The affine maps of one weight of shape (d_out, d_in), one for each row of blocks."""

    site: kit.Site

    def __init__(self, d_in: int, d_out: int, *, r: int):
        super().__init__()
        if d_in % r or d_out % r:
            raise ValueError(f"r = {r} must divide {d_in} and {d_out}")
        self.D = nn.Parameter(torch.zeros(d_out // r, r, r))

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        return y + x @ self.delta().T                               # (..., d_in) -> (..., d_out)

    def delta(self) -> Tensor:
        weight = self.site.weight.detach()
        rows, r, _ = self.D.shape
        blocks = weight.view(rows, r, -1, r).transpose(1, 2)        # (rows, columns, r, r)
        change = blocks @ self.D[:, None] + self.D[:, None]         # (rows, columns, r, r)
        return change.transpose(1, 2).reshape(weight.shape)         # (d_out, d_in)


def apply(
    model: nn.Module, *, r: int = 64, targets: tuple[str, ...] = ("attn.*", "xattn.*", "mlp.*")
) -> nn.Module:
    """Freeze the model and put affine maps beside every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        kit.attach(site, "bat", Blocks(site.d_in, site.d_out, r=r))
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add to every weight what its blocks become."""
    return kit.fold(model, "bat")
