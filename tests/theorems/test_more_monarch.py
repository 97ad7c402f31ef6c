"""MoRe: LoRA with one block; with more blocks a higher rank for the same parameters, and every input still acts."""

from __future__ import annotations

import pytest
import torch

from reference_impls.lora import LoRA
from reference_impls.more_monarch import MoRe

pytestmark = pytest.mark.torch


def filled(nblocks: int, r: int) -> MoRe:
    torch.manual_seed(0)
    child = MoRe(24, 16, nblocks=nblocks, r=r, dropout=0.0).double()
    torch.nn.init.normal_(child.L)
    return child


@pytest.mark.parametrize(("nblocks", "r"), [(1, 3), (2, 2), (4, 1), (4, 3), (4, 4)])
def test_rank_grows_with_the_blocks_at_the_same_count(nblocks: int, r: int) -> None:
    child = filled(nblocks, r)
    assert sum(p.numel() for p in child.parameters()) == r * (24 + 16)
    change = child.delta()
    assert torch.linalg.matrix_rank(change) == min(nblocks * r, 16)
    assert (change != 0).all() == (r >= nblocks), "then each block gets something of every block"


def test_one_block_is_lora() -> None:
    child = filled(1, 3)
    pair = LoRA(24, 16, r=3, alpha=3.0, dropout=0.0).double()
    pair.A.data, pair.B.data = child.R.data[0], child.L.data[0]
    assert torch.allclose(child.delta(), pair.delta())
    x = torch.randn(5, 24).double()
    assert torch.allclose(child.after(x, x.new_zeros(5, 16)), pair.after(x, x.new_zeros(5, 16)))
