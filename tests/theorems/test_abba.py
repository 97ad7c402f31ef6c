"""ABBA: the entry-by-entry product has a rank up to the product of the ranks, and is never computed as a whole."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import abba

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_rank_is_the_product_of_the_ranks(family: str) -> None:
    model = abba.apply(tiny.model(family), r1=2, r2=3, alpha1=4.0, alpha2=9.0, targets=("attn.*",))
    for site, child in kit.at_sites(model, "abba", abba.ABBA):
        values = torch.linalg.svdvals(site.weight)
        assert torch.allclose(torch.linalg.svdvals(child.B_1 @ child.A_1)[:2], values[:2]), "the best approximation"
    shake(model)
    for site, child in kit.at_sites(model, "abba", abba.ABBA):
        change = child.delta()
        assert torch.linalg.matrix_rank(change) == min(6, site.d_in, site.d_out)
        zeros = torch.zeros(site.d_in, site.d_out).to(change)
        assert torch.allclose(child.after(torch.eye(site.d_in).to(change), zeros).T, change), "as one pair of factors"
