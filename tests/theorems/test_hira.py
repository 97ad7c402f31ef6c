"""HiRA: the change has a rank of up to r times the weight's, and a weight of ones makes it LoRA."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import hira

pytestmark = pytest.mark.torch


def test_the_change_has_full_rank_although_the_multiplier_has_rank_one() -> None:
    plain, model = tiny.plain("llama"), hira.apply(tiny.model("llama"), r=1, targets=("attn.q",))
    shake(model)
    children = list(kit.at_sites(model, "hira", hira.Multiplier))
    assert all(torch.linalg.matrix_rank(child.delta()) == 1 for _, child in children)
    hira.merge(model)
    for site, _ in children:
        change = site.weight - plain.get_submodule(site.path).weight
        assert torch.linalg.matrix_rank(change) == min(change.shape)


def test_on_a_weight_of_rank_one_the_rank_is_at_most_that_of_the_multiplier() -> None:
    torch.manual_seed(0)
    child = hira.Multiplier(8, 6, r=2, alpha=2, dropout=0.0).double()
    torch.nn.init.normal_(child.B)
    weight = torch.outer(torch.randn(6).double(), torch.randn(8).double())
    assert torch.linalg.matrix_rank(weight * child.delta()) == 2
    assert torch.equal(torch.ones(6, 8) * child.delta(), child.delta())
