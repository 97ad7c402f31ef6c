"""ETHER: every weight keeps its singular values and changes by the same amount, whatever the mirrors are."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import ether

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_mirror_in_each_block_is_at_a_constant_distance(family: str) -> None:
    model = ether.apply(tiny.model(family), n=2, targets=("attn.q", "mlp.up"))
    shake(model)
    for site, child in kit.at_sites(model, "ether", ether.Mirrors):
        one = torch.eye(site.d_out).to(site.weight)
        reflection = one - 2 * ether.along(one, child.u)
        assert torch.allclose(reflection @ reflection, one)
        assert torch.allclose(torch.linalg.matrix_norm(reflection - one), torch.tensor(8.0).sqrt().to(one))
        half = site.d_out // 2
        assert torch.linalg.det(reflection[:half, :half]).round() == -1
        after = site.weight + child.delta()
        assert torch.allclose(after, reflection @ site.weight)
        assert torch.allclose(torch.linalg.svdvals(after), torch.linalg.svdvals(site.weight))


def test_lengths_and_signs_of_normals_have_no_effect() -> None:
    model = ether.apply(tiny.model("llama"), n=2)
    for _, child in kit.at_sites(model, "ether", ether.Mirrors):
        before = child.delta()
        child.u.data *= -3
        assert torch.allclose(child.delta(), before)
