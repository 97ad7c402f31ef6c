"""MoV: its factors depend on the input, which those of (IA)^3 do not, and each head is routed by itself."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from reference_impls import ia3, mov

pytestmark = pytest.mark.torch


def _heads(experts: int = 3) -> mov.MixedHeads:
    torch.manual_seed(0)
    child = mov.MixedHeads(12, heads=2, experts=experts)
    for parameter in child.parameters():
        parameter.data.add_(torch.randn_like(parameter))
    return child


def _inputs(width: int) -> Tensor:
    return torch.randn(2, 5, width, generator=torch.Generator().manual_seed(1))


def test_the_factors_depend_on_the_input() -> None:
    child, y = _heads(), _inputs(12)
    factors, others = child.after(y, y) / y, child.after(y, 2 * y) / (2 * y)
    assert not torch.allclose(factors, others, atol=1e-2)
    fixed = ia3.ScaleOutput(12)
    assert torch.allclose(fixed.after(y, y) / y, fixed.after(y, 2 * y) / (2 * y))


def test_one_vector_is_ia3() -> None:
    child, y = _heads(experts=1), _inputs(12)
    fixed = ia3.ScaleOutput(12)
    fixed.l_out.data = child.L.data.flatten()
    assert torch.allclose(child.after(y, y), fixed.after(y, y))


def test_a_head_does_not_see_the_others() -> None:
    child, y = _heads(), _inputs(12)
    other = y.clone()
    other[..., 6:] += 1.0
    assert torch.equal(child.after(y, y)[..., :6], child.after(other, other)[..., :6])
    assert not torch.allclose(child.after(y, y)[..., 6:], child.after(other, other)[..., 6:])
    inner = mov.MixedInput(12, experts=3)
    inner.l_ff.data.add_(torch.randn(3, 12))
    assert not torch.allclose(inner.before(y)[..., :6], inner.before(other)[..., :6], atol=1e-4)
