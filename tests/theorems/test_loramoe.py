"""LoRAMoE: the term of the loss is least when the experts of an example's own kind are used less, by its factor."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from reference_impls import loramoe

pytestmark = pytest.mark.torch


def _shares(use: list[list[float]]) -> Tensor:
    """Weights of the experts at three positions of each example, with these sums over the positions."""
    return (torch.tensor(use, dtype=torch.float64) / 3).unsqueeze(1).expand(-1, 3, -1)


KINDS = torch.tensor([1, 0])


def test_without_a_difference_between_the_kinds_equal_use_is_balanced() -> None:
    equal = _shares([[1.0, 1.0, 1.0, 1.0]] * 2)
    uneven = _shares([[2.0, 1.0, 0.5, 0.5]] * 2)
    assert float(loramoe.imbalance(equal, KINDS)) == pytest.approx(0, abs=1e-12)
    assert float(loramoe.imbalance(uneven, KINDS)) > 0.1


def test_the_own_half_of_the_experts_is_used_less() -> None:
    delta = 0.25
    less, more = 1 - delta, 1 + delta
    split = _shares([[less, less, more, more], [more, more, less, less]])
    other = _shares([[more, more, less, less], [less, less, more, more]])
    assert float(loramoe.imbalance(split, KINDS, delta=delta)) == pytest.approx(0, abs=1e-12)
    equal = float(loramoe.imbalance(_shares([[1.0] * 4] * 2), KINDS, delta=delta))
    assert float(loramoe.imbalance(other, KINDS, delta=delta)) > equal > 0.05


def test_the_gradient_reaches_the_router() -> None:
    child = loramoe.LoRAMoE(6, 5, r=2, alpha=4.0, experts=4, dropout=0.0)
    loramoe.imbalance(child.shares(torch.randn(2, 3, 6)), KINDS, delta=0.25).backward()
    assert child.G.grad is not None
    assert bool(child.G.grad.any())
    assert child.A.grad is None, "the balance depends on the router only"
