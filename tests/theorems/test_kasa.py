"""KaSA: the weight loses exactly its smallest singular values, and the penalty vanishes for orthonormal factors."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import kasa

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_least_singular_values_are_gone(family: str) -> None:
    plain = kit.sites(tiny.plain(family), ("attn.*",))
    before = {(site.path, site.role): torch.linalg.svdvals(site.weight) for site in plain}
    model = kasa.apply(tiny.model(family), r=3, targets=("attn.*",))
    for site in kit.sites(model, ("attn.*",)):
        left, whole = torch.linalg.svdvals(site.weight), before[site.path, site.role]
        assert torch.allclose(left[:-3], whole[:-3])
        assert left[-3:].abs().max() < 1e-12


def test_the_penalty_is_that_of_the_sizes_for_orthonormal_factors() -> None:
    model = kasa.apply(tiny.model("llama"), r=3, targets=("attn.*",))
    children = [child for _, child in kit.at_sites(model, "kasa", kasa.KaSA)]
    assert kasa.penalty(model, beta=0.0, gamma=1.0) > 1.0
    with torch.no_grad():
        for child in children:
            child.B.copy_(torch.linalg.qr(torch.randn_like(child.B)).Q)
            child.A.copy_(torch.linalg.qr(torch.randn_like(child.A).T).Q.T)
    sizes = torch.stack([child.Sigma.norm() ** 2 for child in children]).mean()
    assert torch.allclose(kasa.penalty(model, beta=2.0, gamma=1.0), 2.0 * sizes)
