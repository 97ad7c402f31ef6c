"""PVeRA: what is drawn in training has the mean that is served."""

from __future__ import annotations

import pytest
import torch

from reference_impls import pvera, vera

pytestmark = pytest.mark.torch


def test_the_mean_of_the_draws_is_what_is_served() -> None:
    torch.manual_seed(0)
    child = pvera.PVeRA(6, 4, vera.Shared(*pvera.draw(5, 6, 4)), alpha=2.0)
    torch.nn.init.normal_(child.lambda_b)
    x = torch.randn(6).expand(20000, 6)
    draws = child.train().after(x, torch.zeros(())).detach()
    served = child.eval().after(x, torch.zeros(())).detach()
    error = draws.std(0) / 20000**0.5
    assert (draws.std(0) > 0.1).any()
    assert ((draws.mean(0) - served[0]).abs() < 4 * error).all()
    assert torch.allclose(served[0], child.delta() @ x[0], atol=1e-6)
