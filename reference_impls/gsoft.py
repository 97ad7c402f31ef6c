"""GSOFT: orthogonal fine-tuning with group-and-shuffle matrices (gorbunov2024gsoft; code_gsoft).

    h = s * (W_0 P^T L P R x),    L, R = diag(Cayley(skew part of a block), ...)

Trained: d_in / b blocks R and as many L (b, b), of which only the skew-symmetric half acts, and the scale s (d_out) of
the outputs, beside every targeted weight. P takes the components with the same remainder of the number of blocks to
one block. At inference nothing is left.
"""

import torch
from torch import Tensor, nn

from . import _kit as kit
from ._rotated import Rotated, cayley
from ._rotated import merge as merge_rotated


class GSOFT(Rotated):
    """The two block rotations before one weight, and the scale behind it."""

    def __init__(self, d_in: int, d_out: int, *, block: int, scaling: bool):
        super().__init__()
        if d_in % block:
            raise ValueError(f"blocks of size {block} do not divide {d_in}")
        self.R = nn.Parameter(torch.zeros(d_in // block, block, block))
        self.L = nn.Parameter(torch.zeros(d_in // block, block, block))
        self.s = nn.Parameter(torch.ones(d_out)) if scaling else None

    def rotate(self, x: Tensor) -> Tensor:
        first, second = (cayley((blocks - blocks.mT) / 2) for blocks in (self.R, self.L))     # (k, b, b)
        k, b, _ = first.shape
        x = torch.einsum("...kp,kqp->...kq", x.unflatten(-1, (k, b)), first).flatten(-2)
        shuffled = x.unflatten(-1, (b, k)).mT                       # (..., d_in) -> (..., k, b)
        rotated: Tensor = torch.einsum("...kp,kqp->...kq", shuffled, second).mT.flatten(-2)
        return rotated                                              # (..., d_in)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        if self.s is None:
            return super().after(x, y)
        weight = self.site.weight
        return y + self.s * (self.rotate(x) @ weight.T) - x @ weight.T

    def merged(self, weight: Tensor) -> Tensor:
        rotated = super().merged(weight)
        return rotated if self.s is None else self.s[:, None] * rotated


def apply(
    model: nn.Module, *, block_size: int = 8, scaling: bool = True,
    targets: tuple[str, ...] = ("attn.*", "xattn.*", "mlp.*"),
) -> nn.Module:
    """Freeze the model and put two block rotations with a shuffle before every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        kit.attach(site, "gsoft", GSOFT(site.d_in, site.d_out, block=block_size, scaling=scaling))
    return model


def merge(model: nn.Module) -> nn.Module:
    """Rotate and scale the weights."""
    return merge_rotated(model, "gsoft")
