"""SIFT: the first loss alone chooses, each weight has its share, and the increment learns as the entries would."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import sift

pytestmark = pytest.mark.torch


def dense_gradients(family: str) -> dict[str, Tensor]:
    """The gradient of every weight of the plain model, by the path of its module."""
    model = tiny.model(family)
    tiny.loss(model, family).backward()
    return {name.removesuffix(".weight"): p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_each_weight_trains_its_share_of_the_largest_gradients_of_the_first_loss() -> None:
    model = sift.apply(tiny.model("llama"), rate=0.07)
    sift.calibrate(model, (scale * tiny.loss(model, "llama") ** power for scale, power in ((1, 1), (-3, 2))))
    gradients = dense_gradients("llama")
    pairs = list(kit.at_sites(model, "sift", sift.SIFT))
    assert len(pairs) == 14
    for site, child in pairs:
        sizes = gradients[site.path].abs().flatten()
        assert len(child.positions) == int(0.07 * len(sizes)) + 1
        chosen = torch.zeros_like(sizes, dtype=torch.bool)
        chosen[child.positions] = True
        assert sizes[chosen].min() > sizes[~chosen].max()
        assert not site.module.weight.requires_grad


def test_the_increment_has_the_gradient_of_its_entries_and_no_more() -> None:
    model = sift.apply(tiny.model("bert"), rate=0.1)
    sift.calibrate(model, (tiny.loss(model, "bert") for _ in range(1)))
    tiny.loss(model, "bert").backward()
    gradients = dense_gradients("bert")
    for site, child in kit.at_sites(model, "sift", sift.SIFT):
        assert child.values.grad is not None
        assert torch.allclose(child.values.grad, gradients[site.path].flatten()[child.positions], atol=1e-12)
    trained = {name.rpartition(".")[2] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"values"}


def test_a_rate_of_zero_trains_one_entry_and_a_rate_of_one_all() -> None:
    for rate, count in ((0.0, 1), (1.0, 12)):
        assert len(sift.SIFT(3, 4, rate=rate).values) == count
