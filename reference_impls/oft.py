"""OFT: orthogonal finetuning (qiu2023oft; code_oft), input-centric and with Cayley-Neumann as in OFTv2 (qiu2025oftv2).

    h = W_0 R^T x,    R = diag(R_1, ..., R_r),    R_i = (I + Q_i)(I - Q_i)^-1,    Q_i skew-symmetric

Trained: what stands above the diagonal of every Q_i (b (b - 1) / 2 numbers for a block of size b) beside every
targeted weight; with `block_share` all blocks of a weight are one. At inference nothing is left: R goes into W_0.
OFTv2 turns the input instead of the weight (the same function, as here) and replaces the inverse by a sum of
powers (`use_cayley_neumann`); QOFT is the same over quantised weights. peft's exact form has the sign of Q reversed.
The authors' commands also keep every Q within a small distance of zero (COFT); this has no such bound.
"""

import torch
from torch import Tensor, nn

from . import _kit as kit
from ._rotated import Rotated, cayley, skew
from ._rotated import merge as merge_rotated


class OFT(Rotated):
    """The block-diagonal rotation before one weight."""

    def __init__(self, d_in: int, *, block: int, share: bool, terms: int | None):
        super().__init__()
        if d_in % block:
            raise ValueError(f"blocks of size {block} do not divide {d_in}")
        self.Q = nn.Parameter(torch.zeros(1 if share else d_in // block, block * (block - 1) // 2))
        self.block, self.terms = block, terms

    def rotate(self, x: Tensor) -> Tensor:
        blocks = cayley(skew(self.Q, self.block), self.terms)       # (r or 1, b, b)
        folded = x.unflatten(-1, (-1, self.block))                  # (..., d_in) -> (..., r, b)
        blocks = blocks.expand(folded.shape[-2], -1, -1)            # (r, b, b)
        rotated: Tensor = torch.einsum("...rb,rbc->...rc", folded, blocks).flatten(-2)       # (..., d_in)
        return rotated


def apply(
    model: nn.Module, *, r: int = 4, block_size: int = 32, block_share: bool = False,
    use_cayley_neumann: bool = False, num_cayley_neumann_terms: int = 5,
    targets: tuple[str, ...] = ("attn.*", "xattn.*"),
) -> nn.Module:
    """Freeze the model and put a rotation of r blocks (or of blocks of a size) before every targeted weight."""
    kit.freeze(model)
    terms = num_cayley_neumann_terms if use_cayley_neumann else None
    for site in kit.sites(model, targets):
        block = site.d_in // r if r else block_size
        kit.attach(site, "oft", OFT(site.d_in, block=block, share=block_share, terms=terms))
    return model


def merge(model: nn.Module) -> nn.Module:
    """Rotate the weights."""
    return merge_rotated(model, "oft")
