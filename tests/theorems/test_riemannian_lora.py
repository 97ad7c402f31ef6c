"""Riemannian LoRA: the step of the product does not depend on how it is shared out, and peft takes the same steps."""

from __future__ import annotations

from typing import Any

import peft
import pytest
import torch
from peft.optimizers import create_riemannian_optimizer
from torch import Tensor

from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import riemannian_lora as riemannian
from tests.oracles import factors, layer

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")]


def moves(child: riemannian.Preconditioned, gradient: Tensor) -> Tensor:
    """The first-order change of the product B A by one gradient step, with the loss's gradient in the product given."""
    child.zero_grad()
    ((child.B @ child.A) * gradient).sum().backward()
    child.precondition()
    assert child.A.grad is not None
    assert child.B.grad is not None
    return child.B.grad @ child.A + child.B @ child.A.grad


def test_the_step_belongs_to_the_product() -> None:
    torch.manual_seed(0)
    one, other = (riemannian.Preconditioned(9, 7, r=3, alpha=3.0, dropout=0.0, reg=0.0).double() for _ in range(2))
    mix, gradient = torch.randn(3, 3).double(), torch.randn(7, 9).double()
    with torch.no_grad():
        one.B.copy_(torch.randn(7, 3))
        other.A.copy_(mix @ one.A)
        other.B.copy_(one.B @ mix.inverse())
    assert torch.allclose(one.B @ one.A, other.B @ other.A)
    assert torch.allclose(moves(one, gradient), moves(other, gradient))
    rows, columns = torch.linalg.qr(one.A.T).Q, torch.linalg.qr(one.B).Q
    assert torch.allclose(moves(one, gradient), gradient @ rows @ rows.T + columns @ columns.T @ gradient)


def test_peft_takes_the_same_steps() -> None:
    ours = riemannian.apply(tiny.model("llama"), r=2, alpha=4.0, dropout=0.0, reg=0.01)
    shake(ours)
    config = peft.LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"])
    theirs: Any = peft.get_peft_model(tiny.model("llama"), config).double()
    with torch.no_grad():
        factors(ours, theirs, "riemannian_lora")
    mine = torch.optim.SGD([p for p in ours.parameters() if p.requires_grad], lr=0.01)
    peft_s = create_riemannian_optimizer(theirs, torch.optim.SGD, lr=0.01)
    for _ in range(3):
        for model, optimiser in ((ours, mine), (theirs, peft_s)):
            optimiser.zero_grad()
            tiny.loss(model, "llama").backward()
            if model is ours:
                riemannian.precondition(ours)
            optimiser.step()
    for site, child in kit.at_sites(ours, "riemannian_lora", riemannian.Preconditioned):
        assert torch.allclose(child.B, layer(theirs, site).lora_B["default"].weight, atol=1e-6)
        assert torch.allclose(child.A, layer(theirs, site).lora_A["default"].weight, atol=1e-6)
