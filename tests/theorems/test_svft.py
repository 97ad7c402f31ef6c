"""SVFT: the diagonal rescales singular values and turns no singular vector; a full band reaches every change."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import svft

pytestmark = pytest.mark.torch
TARGETS = ("attn.q", "mlp.down")


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_plain_pattern_keeps_the_singular_vectors_and_has_full_rank(family: str) -> None:
    model = svft.apply(tiny.model(family), targets=TARGETS)
    shake(model)
    for site, child in kit.at_sites(model, "svft", svft.Coefficients):
        n = min(site.d_in, site.d_out)
        assert child.M.shape == (n,)
        assert torch.linalg.matrix_rank(child.delta()) == n, "n numbers, rank n"
        values = child.U.T @ (site.weight + child.delta()) @ child.V.T
        assert torch.allclose(values, values.diagonal().diag(), atol=1e-10)


def test_a_full_band_reaches_every_change_of_a_square_weight() -> None:
    model = tiny.model("bert")
    [site, *_] = kit.sites(model, ("attn.q",))
    n = site.d_in
    child = svft.Coefficients(site.weight, d=n - 1, pattern="banded").to(site.weight)
    wanted = torch.randn(n, n).to(child.M)
    child.M.data = 2 * (child.U.T @ wanted @ child.V.T).flatten()
    assert torch.allclose(child.delta(), wanted)


def test_top_cells_are_those_where_left_and_right_vectors_agree() -> None:
    model = tiny.model("bert")
    [site, *_] = kit.sites(model, ("attn.q",))
    child = svft.Coefficients(site.weight, d=1, pattern="top_k")
    likeness = (child.U @ child.V.T).flatten()
    others = torch.ones_like(likeness, dtype=torch.bool)
    others[child.get_buffer("chosen")] = False
    assert likeness[~others].min() >= likeness[others].max()
