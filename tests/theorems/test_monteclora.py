"""MonteCLoRA: the noise has mean zero and the width that was learned; at its priors the penalty vanishes."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance import tiny
from reference_impls import monteclora

pytestmark = pytest.mark.torch


def child(num_samples: int = 1) -> monteclora.Sampled:
    torch.manual_seed(0)
    return monteclora.Sampled(
        400, 3, r=2, alpha=2.0, dropout=0.0, num_samples=num_samples, sample_scaler=0.5
    ).double()


@torch.no_grad()
def test_the_noise_is_as_wide_as_was_learned_for_each_dimension() -> None:
    one = child()
    one.rho.copy_(torch.tensor([0.0, 2.0]))
    draws = torch.stack([one.noise() for _ in range(400)])          # (draws, r, d_in)
    assert draws.mean((0, 2)).abs().max() < 0.1
    # a chi-square draw with r = 2 degrees of freedom has mean 2
    wanted = 0.25 * 2 * torch.tensor([1.0, torch.e**4]).double()
    assert torch.allclose((draws**2).mean((0, 2)), wanted, rtol=0.2)


@torch.no_grad()
def test_more_samples_make_less_noise_and_weights_sum_to_one() -> None:
    few, many = child(1), child(64)
    few.rho.zero_()
    many.rho.zero_()
    assert torch.allclose(many.weights(torch.randn(64).double()).sum(), torch.tensor(1.0).double())
    wide, narrow = (torch.stack([c.noise() for _ in range(20)]).var() for c in (few, many))
    assert narrow < 0.2 * wide


def test_the_penalty_is_zero_at_the_priors_and_positive_elsewhere() -> None:
    model = monteclora.apply(tiny.model("llama"), r=2, num_samples=3)
    assert monteclora.penalty(model) > 0
    for name, parameter in model.named_parameters():
        if name.endswith(("rho", "kappa")):
            parameter.data.zero_()
    assert abs(monteclora.penalty(model, dirichlet_prior=1.0, concentration=0.0)) < 1e-12


def test_the_sum_of_squares_is_least_when_the_samples_weigh_alike() -> None:
    one = child(4)
    assert monteclora.squares(one).item() == 0.25       # before any draw
    one.kappa.data.zero_()
    alike, spread = torch.zeros(4).double(), torch.tensor([60.0, 0.0, 0.0, 0.0]).double()
    for draw, wanted in ((alike, 0.25), (spread, 1.0)):
        one.weights(draw)
        assert abs(monteclora.squares(one).item() - wanted) < 1e-9
    one.noise()
    monteclora.squares(one).backward()
    assert one.kappa.grad is not None
    assert one.kappa.grad.abs().sum() > 0
