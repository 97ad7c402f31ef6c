"""BLoB: the signs make tokens see nearly independent draws, and the mean of the draws is the merged correction."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import blob

pytestmark = pytest.mark.torch


def _child() -> blob.BLoB:
    torch.manual_seed(0)
    child = blob.BLoB(6, 5, r=3, alpha=3.0, dropout=0.0, eps=0.7).double()
    child.B.data.normal_()
    return child


def test_the_draws_have_the_merged_correction_as_their_mean() -> None:
    child = _child()
    x = torch.randn(1, 6).double()
    y = torch.zeros(1, 5).double()
    drawn = torch.stack([child.after(x, y).detach() for _ in range(4000)])
    assert torch.allclose(drawn.mean(0), x @ child.delta().T, atol=0.1)
    assert float(drawn.std(0).min()) > 0.05
    assert torch.allclose(child.eval().after(x, y), x @ child.delta().T)


def test_tokens_of_a_step_share_the_noise_and_are_uncorrelated() -> None:
    child = _child()
    x = torch.randn(6).double().expand(1, 2, 6)                         # the same token twice
    first, second = torch.stack([child.noise(x).detach() for _ in range(4000)])[:, 0].unbind(1)
    assert float((first * second).mean(0).abs().max()) < 0.1 * float(first.square().mean(0).min())
    e, u, t = child.draws(x)
    assert e.shape == child.A.shape, "one for all tokens"
    assert set(u.unique().tolist()) | set(t.unique().tolist()) == {-1.0, 1.0}


def test_the_divergence_is_that_of_normal_distributions() -> None:
    model = blob.apply(tiny.model("bert"), r=2, eps=0.5, targets=("attn.v",))
    wanted = 0.0
    for _, child in kit.at_sites(model, "blob", blob.BLoB):
        ours = torch.distributions.Normal(child.A, child.rho.square())
        prior = torch.distributions.Normal(torch.zeros_like(child.A), torch.full_like(child.A, 0.3))
        wanted += float(torch.distributions.kl_divergence(ours, prior).sum().detach())
    assert float(blob.divergence(model, beta=0.3).detach()) == pytest.approx(wanted, rel=1e-4)
