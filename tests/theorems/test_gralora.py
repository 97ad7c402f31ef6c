"""GraLoRA: every block has the rank r / k, the whole up to k times the rank of LoRA; one piece is LoRA."""

from __future__ import annotations

import pytest
import torch

from reference_impls.gralora import Grid
from reference_impls.lora import LoRA

pytestmark = pytest.mark.torch


def filled(d_in: int, d_out: int, *, r: int, k: int) -> Grid:
    torch.manual_seed(0)
    child = Grid(d_in, d_out, r=r, alpha=3.0, k=k, hybrid_r=0, dropout=0.0).double()
    torch.nn.init.normal_(child.B)
    return child


def test_ranks_of_the_blocks_and_of_the_whole() -> None:
    delta = filled(24, 30, r=6, k=3).delta()
    blocks = delta.view(3, 10, 3, 8).transpose(1, 2)
    assert (torch.linalg.matrix_rank(blocks) == 2).all()
    assert torch.linalg.matrix_rank(delta) == 3 * 6


def test_an_input_piece_reaches_an_output_piece_only_through_its_own_block() -> None:
    child = filled(8, 6, r=4, k=2)
    whole = child.delta().view(2, 3, 2, 4)
    with torch.no_grad():
        child.A[0, :, :2] = 0                       # input piece 0, output piece 0
    changed = child.delta().view(2, 3, 2, 4)
    assert (changed[0, :, 0] == 0).all()
    assert torch.equal(changed[1], whole[1])
    assert torch.equal(changed[0, :, 1], whole[0, :, 1])


def test_one_piece_is_lora() -> None:
    child = filled(8, 6, r=4, k=1)
    lora = LoRA(8, 6, r=4, alpha=3.0, dropout=0.0).double()
    lora.A.data, lora.B.data = child.A[0].T, child.B[0].T
    assert torch.allclose(child.delta(), lora.delta())
