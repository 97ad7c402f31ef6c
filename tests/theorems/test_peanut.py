"""PEANuT: the correction depends on the weight column by column, and has the rank of its narrowest layer."""

from __future__ import annotations

import pytest
import torch

from reference_impls import _kit as kit
from reference_impls.peanut import Tweaker

pytestmark = pytest.mark.torch


def test_equal_columns_of_the_weight_are_corrected_alike_and_the_rank_is_bounded() -> None:
    torch.manual_seed(0)
    linear = torch.nn.Linear(8, 6, bias=False)
    child = Tweaker(6, r=3, depth=2, act_fn="tanh", scaling=2.0)
    torch.nn.init.normal_(child.B)
    kit.share(child, site=linear)
    with torch.no_grad():
        linear.weight[:, 5] = linear.weight[:, 1]
        linear.weight[:, 6] = -linear.weight[:, 1]
    delta = child.delta()
    assert torch.allclose(delta[:, 5], delta[:, 1], atol=1e-6)
    assert torch.allclose(delta[:, 6], -delta[:, 1], atol=1e-6), "the hyperbolic tangent is odd"
    assert torch.linalg.matrix_rank(delta) == 3
