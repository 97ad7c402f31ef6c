"""SVDiff: a shift moves a singular value, can remove a direction for good, and never reverses one."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import svdiff

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_singular_values_are_the_shifted_ones_cut_off_at_zero(family: str) -> None:
    model = svdiff.apply(tiny.model(family), targets=("attn.q", "mlp.down"))
    for site, child in kit.at_sites(model, "svdiff", svdiff.Shifted):
        signs = torch.ones_like(child.S)
        signs[::2] = -2                                             # every second value would become negative
        child.shift.data = signs * child.S
        weight = site.weight + child.delta()
        values = child.U.T @ weight @ child.V.T
        assert torch.allclose(values, torch.where(signs > 0, 2 * child.S, 0.0).diag(), atol=1e-10)
        assert torch.linalg.matrix_rank(weight) == (signs > 0).sum(), "the others are gone"
        x = torch.randn(5, site.d_in).to(weight)
        child.after(x, x.new_zeros(5, site.d_out)).square().sum().backward()
        gradient = child.shift.grad
        assert gradient is not None
        assert (gradient[signs > 0] != 0).all()
        assert not gradient[signs < 0].any(), "a direction that is gone cannot come back"
