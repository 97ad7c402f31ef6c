"""LoRA-Pro: no step of the factors changes the weight more like full fine-tuning, and no nearer one does the same."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import lora_pro

from ..knowledge import KB

pytestmark = pytest.mark.torch


def pair() -> lora_pro.LoRAPro:
    """A correction in double precision, of which neither factor is zero."""
    torch.manual_seed(0)
    child = lora_pro.LoRAPro(9, 7, r=3, alpha=6.0, dropout=0.0, reg=0.0).double()
    child.B.data = torch.randn(7, 3).double()
    return child


def gradients(child: lora_pro.LoRAPro, full: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of A and B, if that of the weight is `full` (d_out, d_in)."""
    return child.scale * (child.B.T @ full).detach(), child.scale * (full @ child.A.T).detach()


def change(child: lora_pro.LoRAPro, grad_a: Tensor, grad_b: Tensor) -> Tensor:
    return (child.scale * (child.B @ grad_a + grad_b @ child.A)).detach()


def test_the_change_is_the_nearest_that_steps_of_the_factors_can_make() -> None:
    child, full = pair(), torch.randn(7, 9).double()
    with torch.no_grad():
        found = change(child, *child.nearest(*gradients(child, full)))
        ways = [child.scale * (child.B @ unit) for unit in torch.eye(27).double().reshape(27, 3, 9)]
        ways += [child.scale * (unit @ child.A) for unit in torch.eye(21).double().reshape(21, 7, 3)]
        basis = torch.stack([way.flatten() for way in ways], 1)                 # all changes that steps can make
        best = (basis @ (torch.linalg.pinv(basis) @ full.flatten())).reshape(7, 9)
    assert torch.allclose(found, best)
    assert (change(child, *gradients(child, full)) - full).norm() > (found - full).norm(), "LoRA's own is farther"


def test_of_the_steps_with_that_change_it_takes_the_nearest_to_the_gradients() -> None:
    """Without Adam: other gradients with the same change of the weight are farther from the own ones."""
    child, full = pair(), torch.randn(7, 9).double()
    own = gradients(child, full)
    with torch.no_grad():
        low_a, low_b = child.nearest(*own)
        x = lora_pro.sylvester(child.B.T @ child.B, child.A @ child.A.T, -low_a @ child.A.T)

        def distance(x: Tensor) -> Tensor:
            taken = low_a + x @ child.A, low_b - child.B @ x
            assert torch.allclose(change(child, *taken), change(child, low_a, low_b))
            return (taken[0] - own[0]).square().sum() + (taken[1] - own[1]).square().sum()

        for _ in range(20):
            assert distance(x) < distance(x + 0.01 * torch.randn(3, 3).double())


def test_the_first_step_is_adams_step_of_the_weight_projected() -> None:
    child, full = pair(), torch.randn(7, 9).double()
    before = child.A.detach().clone(), child.B.detach().clone()
    own = lora_pro.Projected(nn.Sequential(child), lr=0.1, eps=0.0)
    assert own.pairs == []
    child.A.grad, child.B.grad = gradients(child, full)
    with torch.no_grad():
        seen = change(child, *child.nearest(child.A.grad, child.B.grad))
        wanted = change(child, *child.nearest(*gradients(child, seen.sign())))
        own.update(child, own.param_groups[1])
        taken = (before[0] - child.A) / 0.1, (before[1] - child.B) / 0.1
        child.A.copy_(before[0])
        child.B.copy_(before[1])
    assert torch.allclose(change(child, *taken), wanted)


def test_the_authors_counter_shortens_the_first_step() -> None:
    """Their counter is one ahead, so both moments are corrected as if two steps had been taken."""
    ones = torch.ones(7, 9).double()
    ahead, right = (lora_pro.adam(ones.clone(), state, (0.9, 0.999), 0.0) for state in ({"step": 1}, {}))
    assert torch.allclose(ahead / right, torch.full((7, 9), 0.744).double(), atol=1e-3)


def test_it_keeps_moments_of_the_weights_and_trains() -> None:
    torch.manual_seed(0)
    model = lora_pro.apply(tiny.model("llama"), r=2, alpha=4.0, targets=("attn.q", "mlp.down"))
    optimizer = lora_pro.optimizer(model, lr=0.01)
    losses = []
    for _ in range(6):
        loss = tiny.loss(model, "llama")
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0]
    wanted = 0
    for site, child in kit.at_sites(model, "lora_pro", lora_pro.LoRAPro):
        assert optimizer.state[child.A]["first"].shape == optimizer.state[child.A]["second"].shape
        assert optimizer.state[child.A]["second"].numel() == site.d_in * site.d_out
        assert not optimizer.state[child.B]
        wanted += 2 * site.d_in * site.d_out
    asked = {"batch": 2, "seq": 8, "dtype": "float32", "targets": ["attn.q", "mlp.down"]}
    assert KB["lora_pro"].memory(tiny.config("llama"), r=2, **asked).optimizer_states == 4 * wanted
