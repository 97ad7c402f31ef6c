"""SVF: only the proportions of the singular values change, never their sum, their vectors or their signs."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import svf

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_sum_and_vectors_of_the_singular_values_stay(family: str) -> None:
    model = svf.apply(tiny.model(family), targets=("attn.q", "mlp.down"))
    shake(model)
    for site, child in kit.at_sites(model, "svf", svf.Scaled):
        before, after = site.weight, site.weight + child.delta()
        assert not torch.allclose(before, after)
        assert torch.allclose(torch.linalg.svdvals(after).sum(), torch.linalg.svdvals(before).sum())
        values = child.U.T @ after @ child.V.T
        assert torch.allclose(values, values.diagonal().diag(), atol=1e-10)
        assert (values.diagonal() > 0).all()
        child.z.data.fill_(-3.0)
        assert torch.allclose(child.delta(), torch.zeros_like(before), atol=1e-12), "equal factors cancel"
