"""BD-LoRA: block-diagonal LoRA for tensor-parallel serving (wang2025bdlora).

    h = W_0 x + (alpha / r) B A x,   with B = diag(B_1 ... B_n) where W_0 is split by outputs over n devices (queries,
    keys, values, up, gate), and A = diag(A_1 ... A_n) where it is split by inputs (attention's output, down)

Trained: A (r, d_in) and B_blocks (d_out, r / n), or A_blocks (r, d_in / n) and B (d_out, r); the blocks are stacked by
rows. Each device then needs its own block only, and the correction no communication that the model does not have
already. At inference the pair stays for serving many tasks at once, or the product is added to W_0.
"""

import math

import torch
from torch import Tensor, nn

from . import _kit as kit

ROW_PARALLEL = ("attn.o", "xattn.o", "mlp.down")
"""Roles whose weights are split by inputs."""


class BDLoRA(kit.Child):
    """The correction beside one weight of shape (d_out, d_in), one factor of which has `nblocks` blocks."""

    def __init__(self, d_in: int, d_out: int, *, r: int, alpha: float, dropout: float, nblocks: int, by_inputs: bool):
        super().__init__()
        self.first, self.second = ("A_blocks", "B") if by_inputs else ("A", "B_blocks")
        self.blocks = (nblocks, 1) if by_inputs else (1, nblocks)
        if r % nblocks or (d_in if by_inputs else d_out) % nblocks:
            raise ValueError(f"{nblocks} blocks do not divide rank {r} and a weight of {d_out} x {d_in}")
        a = nn.Parameter(torch.empty(r, d_in // self.blocks[0]))
        nn.init.kaiming_uniform_(a, a=math.sqrt(5))
        self.register_parameter(self.first, a)
        self.register_parameter(self.second, nn.Parameter(torch.zeros(d_out, r // self.blocks[1])))
        self.scale = alpha / r
        self.dropout = nn.Dropout(dropout)

    def factors(self) -> tuple[nn.Parameter, nn.Parameter]:
        return self.get_parameter(self.first), self.get_parameter(self.second)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        a, b = self.factors()
        low = blockwise(self.dropout(x), a, self.blocks[0])                 # (..., d_in) -> (..., r)
        return y + self.scale * blockwise(low, b, self.blocks[1])           # (..., r) -> (..., d_out)

    def delta(self) -> Tensor:
        a, b = (torch.block_diag(*f.chunk(n)) for f, n in zip(self.factors(), self.blocks, strict=True))
        delta: Tensor = b @ a * self.scale                                  # (d_out, d_in)
        return delta


def blockwise(x: Tensor, stacked: Tensor, n: int) -> Tensor:
    """The block-diagonal map of the n blocks that are stacked by rows, each on its own part of x."""
    parts = x.unflatten(-1, (n, -1))                                # (..., n, width / n)
    blocks = stacked.unflatten(0, (n, -1))                          # (n, height / n, width / n)
    return torch.einsum("...nw,nhw->...nh", parts, blocks).flatten(-2)


def apply(
    model: nn.Module, *, r: int = 16, alpha: float = 32.0, dropout: float = 0.0, nblocks: int = 2,
    targets: tuple[str, ...] = ("attn.*", "xattn.*", "mlp.*"),
) -> nn.Module:
    """Freeze the model and put a correction of which one factor is block-diagonal beside every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        child = BDLoRA(
            site.d_in, site.d_out, r=r, alpha=alpha, dropout=dropout, nblocks=nblocks,
            by_inputs=site.role in ROW_PARALLEL,
        )  # fmt: skip
        kit.attach(site, "bd_lora", child)
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the corrections to the weights."""
    return kit.fold(model, "bd_lora")
