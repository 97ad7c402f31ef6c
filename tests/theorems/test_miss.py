"""MiSS: the fold is a first factor made of identity matrices, so the rank is bounded, and mini and MiSS meet."""

from __future__ import annotations

import pytest
import torch

from reference_impls import _kit as kit
from reference_impls import bat, miss

pytestmark = pytest.mark.torch


@pytest.mark.parametrize(("d_in", "r"), [(12, 3), (13, 4)])
def test_the_shard_is_lora_with_a_row_of_identities_as_first_factor(d_in: int, r: int) -> None:
    torch.manual_seed(0)
    child = miss.Shard(d_in, 7, r=r, height=7, dropout=0.0)
    torch.nn.init.normal_(child.D)
    first = torch.eye(r).repeat(1, -(-d_in // r))[:, :d_in]
    assert torch.allclose(child.delta(), child.D.T @ first)
    assert torch.linalg.matrix_rank(child.delta()) == r


def test_a_block_as_high_as_the_weight_is_miss() -> None:
    torch.manual_seed(0)
    whole, small = (miss.Shard(6, 8, r=3, height=height, dropout=0.0) for height in (8, 4))
    torch.nn.init.normal_(small.D)
    whole.D.data = torch.cat([small.D, small.D], dim=1)
    assert torch.allclose(whole.delta(), small.delta())


def test_equal_blocks_change_alike_and_zero_blocks_change_as_in_miss() -> None:
    torch.manual_seed(0)
    linear = torch.nn.Linear(8, 4, bias=False)
    with torch.no_grad():
        linear.weight[:, 4:] = linear.weight[:, :4]
        linear.weight[2:] = 0
    child = bat.Blocks(8, 4, r=2)
    torch.nn.init.normal_(child.D)
    kit.share(child, site=linear)
    delta = child.delta()
    assert torch.allclose(delta[:, 4:], delta[:, :4])
    assert torch.allclose(delta[2:], child.D[1].repeat(1, 4))
