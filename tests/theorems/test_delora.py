"""DeLoRA: the strength bounds the correction, whatever the factors are."""

from __future__ import annotations

import pytest
import torch

from reference_impls.delora import Bounded

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("size", [1e-2, 1.0, 1e6])
def test_no_factors_make_the_correction_longer_than_lambda_times_the_weight(size: float) -> None:
    torch.manual_seed(0)
    weight = torch.randn(7, 5)
    child = Bounded(weight, r=3, delora_lambda=0.5, dropout=0.0)
    for factor in (child.A, child.B):
        torch.nn.init.normal_(factor, std=size)
    delta = child.bounded(child.A, child.B) * child.w
    assert delta.norm() <= 0.5 * weight.norm()
    assert (delta.norm(dim=0) <= 0.5 * weight.norm(dim=0)).all()
    assert (delta / child.w).norm() <= 0.5


def test_terms_that_agree_reach_the_bound() -> None:
    child = Bounded(torch.eye(4), r=2, delora_lambda=3.0, dropout=0.0)
    with torch.no_grad():
        child.A[:], child.B[:] = torch.tensor([5.0, 0, 0, 0]), torch.tensor([[0.0], [2], [0], [0]])
    assert torch.allclose(child.bounded(child.A, child.B).norm(), torch.tensor(3.0))
    with torch.no_grad():
        child.A_0[:], child.B_0[:] = -child.A, child.B      # a start in the opposite direction
    assert torch.allclose(child.delta().norm(), torch.tensor(6.0))
