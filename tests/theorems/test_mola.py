"""MoLA: a token's correction comes from its best experts alone, and higher layers have more experts to choose from."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import mola

pytestmark = pytest.mark.torch


def _experts() -> mola.MoLA:
    torch.manual_seed(0)
    child = mola.MoLA(6, 5, r=2, alpha=4.0, experts=5, top_k=2, dropout=0.0)
    child.B.data.normal_()
    return child


def test_experts_that_a_token_did_not_choose_have_no_effect_and_no_gradient() -> None:
    child = _experts()
    x, y = torch.randn(1, 6), torch.zeros(1, 5)
    chosen = child.shares(x)[0] > 0
    assert int(chosen.sum()) == 2
    before = child.after(x, y)
    before.sum().backward()
    for factor in (child.A, child.B):
        assert factor.grad is not None
        assert factor.grad.flatten(1).any(1).equal(chosen)
        factor.data[~chosen] = 7.0
    assert torch.equal(child.after(x, y), before)


def test_the_weights_of_the_chosen_are_a_softmax_among_them() -> None:
    child = _experts()
    x = torch.randn(4, 6)
    best, chosen = (x @ child.G.T).topk(2)
    assert torch.allclose(child.shares(x).gather(-1, chosen), best.softmax(-1))


def test_preferred_experts_are_unbalanced() -> None:
    child = _experts()
    x = torch.randn(50, 6).abs()
    child.G.data.zero_()
    child.G.data[:2] = 9.0
    assert float(child.imbalance(x).detach()) == pytest.approx(2.5, abs=1e-3), "two of five experts do everything"


def test_higher_groups_have_more_experts() -> None:
    model = mola.apply(tiny.model("llama"), r=2, experts=2, growth=3, group=1, top_k=2, targets=("attn.q",))
    found = [(site.layer, len(child.G)) for site, child in kit.at_sites(model, "mola", mola.MoLA)]
    assert found == [(layer, 2 + 3 * layer) for layer in range(len(found))]
    assert len(found) > 1
    with pytest.raises(ValueError, match="cannot use 2 of 1 experts"):
        mola.apply(tiny.model("llama"), experts=1, top_k=2)
