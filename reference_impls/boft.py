"""BOFT: orthogonal butterfly (liu2024boft).

    h = s * (W_0 (B_m ... B_2 B_1)^T x),    B_i = P_i diag(Cayley(skew part of R_ij), j = 1, 2, ...) P_i^T

Trained: m times d_in / b whole blocks R (b, b), of which only the skew-symmetric half acts, and the scale s (d_out) of
the outputs, beside every targeted weight. The fixed P_i permutes half blocks so that factor i mixes numbers 2^i halves
apart: m factors reach as far as blocks of size b 2^(m - 1). At inference nothing is left. With one factor it is
OFT with a scale. peft takes one factor unless it can compile its CUDA extension.
"""

import torch
from torch import Tensor, nn

from . import _kit as kit
from ._rotated import Rotated, cayley
from ._rotated import merge as merge_rotated


class BOFT(Rotated):
    """The butterfly before one weight, and the scale behind it."""

    order: Tensor

    def __init__(self, d_in: int, d_out: int, *, block: int, factors: int):
        super().__init__()
        self.R = nn.Parameter(torch.zeros(factors, d_in // block, block, block))
        self.s = nn.Parameter(torch.ones(d_out))
        order = torch.stack([halves(d_in, block, i) if factors > 1 else torch.arange(d_in) for i in range(factors)])
        self.register_buffer("order", order, persistent=False)      # (m, d_in)

    def rotate(self, x: Tensor) -> Tensor:
        factors = cayley((self.R.mT - self.R) / 2)                  # (m, d_in / b, b, b)
        size = factors.shape[-1]
        for order, blocks in zip(self.order.flip(0), factors.flip(0), strict=True):
            folded = x[..., order.argsort()].unflatten(-1, (-1, size))          # (..., d_in) -> (..., d_in / b, b)
            x = torch.einsum("...nb,nbc->...nc", folded, blocks).flatten(-2)[..., order]        # (..., d_in)
        return x

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        weight = self.site.weight
        return y + self.s * (self.rotate(x) @ weight.T) - x @ weight.T

    def merged(self, weight: Tensor) -> Tensor:
        return self.s[:, None] * super().merged(weight)


def halves(d_in: int, block: int, level: int) -> Tensor:
    """A permutation of d_in: in each stretch of block * 2^level, the half blocks of even place come before the odd."""
    return torch.arange(d_in).view(-1, 2**level, 2, block // 2).transpose(1, 2).flatten()


def apply(
    model: nn.Module, *, block_size: int = 4, block_num: int = 0, n_butterfly_factor: int = 1,
    targets: tuple[str, ...] = ("attn.q", "attn.v", "xattn.q", "xattn.v"),
) -> nn.Module:
    """Freeze the model and put a butterfly of blocks (of a size, or of a number) before every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        block = site.d_in // block_num if block_num else block_size
        kit.attach(site, "boft", BOFT(site.d_in, site.d_out, block=block, factors=n_butterfly_factor))
    return model


def merge(model: nn.Module) -> nn.Module:
    """Rotate and scale the weights."""
    return merge_rotated(model, "boft")
