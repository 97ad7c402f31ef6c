"""PHATGOOSE: a gate that liked a token alone chooses its expert together. Lengths and means of gates do not count."""

from __future__ import annotations

import pytest
import torch

from reference_impls import phatgoose

pytestmark = pytest.mark.torch


def experts(top_k: int) -> phatgoose.Experts:
    torch.manual_seed(0)
    child = phatgoose.Experts(9, 7, n_experts=4, r=3, top_k=top_k).double()
    for value in (child.B, child.v):
        value.copy_(torch.randn_like(value))
    return child


def test_tokens_along_a_gate_go_to_its_expert() -> None:
    child = experts(1)
    assert torch.allclose(child.shares(child.v), torch.eye(4).double(), atol=1e-5)
    mixed = experts(2).shares(torch.randn(5, 9).double())
    assert torch.allclose(mixed.sum(-1), torch.ones(5).double(), atol=1e-5)
    assert ((mixed > 0).sum(-1) == 2).all()


def test_routing_ignores_what_the_gates_training_depends_on() -> None:
    child, x = experts(2), torch.randn(5, 9).double()
    shares, alone = child.shares(x), child.gated(0, x, torch.zeros(5, 7).double())
    child.v.mul_(3).add_(2)                                             # longer gates, with another mean
    assert torch.allclose(child.shares(x), shares, atol=1e-4)
    assert not torch.allclose(child.gated(0, x, torch.zeros(5, 7).double()), alone)
    child.v.zero_()
    half = x @ child.A[0].T @ child.B[0].T / 3 / 2                      # a gate starts half open
    assert torch.allclose(child.gated(0, x, torch.zeros(5, 7).double()), half)
