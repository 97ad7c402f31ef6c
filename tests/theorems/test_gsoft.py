"""GSOFT: two block rotations form one rotation, and each output depends on the square of a block's size of inputs."""

from __future__ import annotations

import pytest
import torch

from reference_impls.boft import BOFT
from reference_impls.gsoft import GSOFT

pytestmark = pytest.mark.torch


@pytest.mark.parametrize(("width", "block", "reach"), [(16, 4, 16), (16, 2, 4), (12, 2, 4), (12, 6, 12), (64, 4, 16)])
def test_orthogonal_with_the_reach_of_a_squared_block(width: int, block: int, reach: int) -> None:
    torch.manual_seed(0)
    child = GSOFT(width, 5, block=block, scaling=False).double()
    torch.nn.init.normal_(child.R)
    torch.nn.init.normal_(child.L)
    one = torch.eye(width).double()
    matrix = child.rotate(one)
    assert torch.allclose(matrix @ matrix.T, one)
    assert ((matrix.abs() > 1e-12).sum(1) == reach).all()
    assert ((matrix.abs() > 1e-12).sum(0) == reach).all()


def test_two_factors_of_boft_reach_less() -> None:
    torch.manual_seed(0)
    butterfly = BOFT(64, 5, block=4, factors=2).double()
    torch.nn.init.normal_(butterfly.R)
    assert ((butterfly.rotate(torch.eye(64).double()).abs() > 1e-12).sum(1) == 8).all(), "half of 4 * 4"


def test_the_scale_follows_the_rotation() -> None:
    torch.manual_seed(0)
    child, plain = (GSOFT(8, 5, block=4, scaling=kind) for kind in (True, False))
    weight = torch.randn(5, 8)
    with torch.no_grad():
        for one in (child, plain):
            one.R.copy_(torch.arange(32.0).view(2, 4, 4).sin())
        assert child.s is not None
        child.s.fill_(3.0)
    assert torch.allclose(child.merged(weight), 3 * plain.merged(weight))
