"""APOLLO: a step is the gradient itself, each row or column times one factor, whatever the rank."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import apollo

pytestmark = pytest.mark.torch


@pytest.mark.parametrize(("per", "r"), [("channel", 2), ("tensor", 1)])
def test_a_step_is_the_gradient_times_one_factor_for_each_channel(per: str, r: int) -> None:
    torch.manual_seed(0)
    model = apollo.apply(tiny.model("llama"), r=r, per=per)
    optimizer = apollo.optimizer(model, lr=0.01)
    weights = [w.value for w in kit.weights(model) if w.layer is not None and w.value.dim() == 2]
    for _ in range(3):
        old = [w.detach().clone() for w in weights]
        optimizer.zero_grad()
        tiny.loss(model, "llama").backward()
        optimizer.step()
        for weight, before in zip(weights, old, strict=True):
            assert weight.grad is not None
            found = factors(weight.detach() - before, weight.grad, per)
            assert (found < 0).all()
            assert torch.linalg.matrix_rank(weight.detach() - before) > r


def factors(change: Tensor, gradient: Tensor, per: str) -> Tensor:
    """Return the factor of each row (of each column if the matrix is wide); every entry must have it."""
    tall = gradient.shape[0] >= gradient.shape[1]
    over = None if per == "tensor" else 1 if tall else 0
    found = (change * gradient).sum(over, keepdim=True) / gradient.square().sum(over, keepdim=True)
    torch.testing.assert_close(change, found * gradient, rtol=1e-6, atol=1e-12)
    return found
