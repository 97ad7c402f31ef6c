"""SSB: scales of rows and columns act on the singular vectors alone, and the whole change can have full rank."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import ssb

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("both", [True, False])
def test_the_singular_vectors_are_scaled_and_the_singular_values_stay(both: bool) -> None:
    model = ssb.apply(tiny.model("llama"), both=both, targets=("attn.q",))
    shake(model)
    for site, child in kit.at_sites(model, "ssb", ssb.Scales):
        u, s, v = torch.linalg.svd(site.weight, full_matrices=False)
        rows = child.s_out[:, None] if both else 1.0
        assert torch.allclose(site.weight + child.delta(), (rows * u) @ s.diag() @ (v * child.s_in))


def test_as_many_numbers_as_a_lora_of_rank_one_change_the_weight_in_full_rank() -> None:
    model = ssb.apply(tiny.model("bert"), targets=("attn.v",))
    shake(model)
    for site, child in kit.at_sites(model, "ssb", ssb.Scales):
        assert sum(p.numel() for p in child.parameters()) == site.d_in + site.d_out
        assert torch.linalg.matrix_rank(child.delta()) == torch.linalg.matrix_rank(site.weight) > 1


def test_a_factor_moved_from_one_side_to_the_other_changes_nothing() -> None:
    model = ssb.apply(tiny.model("bert"), targets=("mlp.up",))
    shake(model)
    before = tiny.loss(model, "bert")
    for _, child in kit.at_sites(model, "ssb", ssb.Scales):
        child.s_in.data *= 2
        child.s_out.data /= 2
    assert torch.allclose(tiny.loss(model, "bert"), before)
