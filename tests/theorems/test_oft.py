"""OFT: lengths of neurons and angles between them stay; the sum of powers tends to the exact transform."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import oft
from reference_impls._rotated import cayley, skew

pytestmark = pytest.mark.torch


def test_neurons_keep_lengths_and_angles() -> None:
    before, after = tiny.model("bert"), tiny.model("bert")
    oft.apply(after, r=2)
    shake(after)
    oft.merge(after)
    for old, new in zip(kit.sites(before, ("attn.q",)), kit.sites(after, ("attn.q",)), strict=True):
        assert not torch.allclose(old.weight, new.weight, atol=0.1)
        assert torch.allclose(old.weight @ old.weight.T, new.weight @ new.weight.T)


def test_blocks_by_number_or_by_size() -> None:
    counts = []
    for given in ({"r": 3}, {"r": 0, "block_size": 4}):
        model = oft.apply(tiny.model("bert"), **given)
        counts.append(sum(p.numel() for p in model.parameters() if p.requires_grad))
    assert counts[0] == counts[1] == 8 * 3 * 6


def test_more_terms_are_nearer_to_the_exact_transform() -> None:
    torch.manual_seed(0)
    q = skew(0.1 * torch.randn(5, 15, dtype=torch.float64), 6)
    exact, one = cayley(q), torch.eye(6, dtype=torch.float64)
    assert torch.allclose(exact @ exact.mT, one.expand_as(exact))
    errors = [float((cayley(q, terms) - exact).norm()) for terms in (2, 4, 6, 8)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.1
    assert errors[-1] < 1e-2
