"""MiCA: whatever is learned, outputs change within the weight's weakest directions only."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import mica

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_changes_stay_in_the_minor_directions(family: str) -> None:
    model = mica.apply(tiny.model(family), r=3, targets=("attn.*",))
    shake(model)
    for site, child in kit.at_sites(model, "mica", mica.MiCA):
        u, s, _ = torch.linalg.svd(site.weight, full_matrices=False)
        assert (u[:, : len(s) - 3].T @ child.delta()).abs().max() < 1e-12
        assert torch.allclose(torch.linalg.svdvals(child.B.T @ site.weight), s[-3:])
        assert torch.allclose(child.B.T @ child.B, torch.eye(3).double())
