"""VeLoRA: keeps one number per group, is exact where nothing is lost by that, and has peft's gradients."""

from __future__ import annotations

import pytest
import torch
from peft.tuners.lora.velora import VeloraFunction

from reference_impls import velora
from tests.test_theorems import kept_for_backward

pytestmark = pytest.mark.torch


def test_it_keeps_as_many_numbers_as_groups() -> None:
    x = torch.randn(5, 12, requires_grad=True)
    child = velora.VeLoRA(12, 7, r=2, alpha=1.0, dropout=0.0, num_groups=3, scale=1.0)
    kept = kept_for_backward(child, x)
    assert (5, 12) not in kept
    assert (5, 3) in kept


def test_the_gradient_is_exact_along_the_direction() -> None:
    """And always is for that of the input."""
    torch.manual_seed(0)
    v = torch.nn.functional.normalize(torch.randn(4).double(), dim=0)
    x = (torch.randn(5, 3, 1).double() * v).flatten(1).requires_grad_()
    a, g = torch.randn(2, 12).double().requires_grad_(), torch.randn(5, 2).double()
    found = torch.autograd.grad(velora.Compressed.apply(x, a, v, 3, 1.0), (x, a), g)  # type: ignore[no-untyped-call]
    wanted = torch.autograd.grad(x @ a.T, (x, a), g)
    assert all(torch.allclose(f, w) for f, w in zip(found, wanted, strict=True))


def test_peft_has_the_same_gradients() -> None:
    torch.manual_seed(1)
    x, a = torch.randn(2, 5, 11).double().requires_grad_(), torch.randn(2, 11).double().requires_grad_()
    v, g = torch.nn.functional.normalize(torch.randn(4).double(), dim=0), torch.randn(2, 5, 2).double()
    found = torch.autograd.grad(velora.Compressed.apply(x, a, v, 3, 0.7), (x, a), g)  # type: ignore[no-untyped-call]
    theirs = VeloraFunction.apply(x, a, None, v, 3, 0.7)  # type: ignore[no-untyped-call]
    for mine, peft_s in zip(found, torch.autograd.grad(theirs, (x, a), g), strict=True):
        assert torch.allclose(mine, peft_s)
