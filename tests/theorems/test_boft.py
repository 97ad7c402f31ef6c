"""BOFT: the product of the factors is orthogonal, and enough of them let every input reach every output."""

from __future__ import annotations

import pytest
import torch

from reference_impls.boft import BOFT

pytestmark = pytest.mark.torch


REACH = [(2, 1, 2), (2, 2, 4), (2, 3, 8), (2, 4, 16), (4, 3, 16), (8, 1, 8)]


@pytest.mark.parametrize(("block", "factors", "reach"), REACH)
def test_orthogonal_with_growing_reach(block: int, factors: int, reach: int) -> None:
    torch.manual_seed(0)
    butterfly = BOFT(16, 5, block=block, factors=factors).double()
    torch.nn.init.normal_(butterfly.R)
    one = torch.eye(16, dtype=torch.float64)
    matrix = butterfly.rotate(one)
    assert torch.allclose(matrix @ matrix.T, one)
    assert ((matrix.abs() > 1e-12).sum(1) == reach).all()


def test_the_scale_spares_the_bias() -> None:
    butterfly = BOFT(16, 5, block=2, factors=1)
    weight = torch.randn(5, 16)
    with torch.no_grad():
        butterfly.s.fill_(3.0)
    assert torch.allclose(butterfly.merged(weight), 3 * weight)
