"""ETHER+: each side stays closer to the identity than a reflection, and may change singular values."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import ether_plus

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_each_block_changes_by_two_directions_and_less_than_a_reflection(family: str) -> None:
    model = ether_plus.apply(tiny.model(family), n=2, targets=("attn.q", "mlp.up"))
    shake(model)
    for site, child in kit.at_sites(model, "ether_plus", ether_plus.Pair):
        for side, d in (("in", site.d_in), ("out", site.d_out)):
            change = child.change(torch.eye(d).to(site.weight), side)
            half = d // 2
            assert (change[:half, half:] == 0).all()
            for block in (change[:half, :half], change[half:, half:]):
                assert torch.linalg.matrix_rank(block) == 2
                assert torch.linalg.matrix_norm(block) <= 2**0.5
        values = torch.linalg.svdvals(site.weight + child.delta())
        assert not torch.allclose(values, torch.linalg.svdvals(site.weight))


def test_opposite_normals_are_the_largest_change_and_equal_ones_none() -> None:
    model = ether_plus.apply(tiny.model("llama"), n=1, targets=("attn.q",))
    for site, child in kit.at_sites(model, "ether_plus", ether_plus.Pair):
        one = torch.eye(site.d_in).to(site.weight)
        assert (child.change(one, "in") == 0).all()
        child.u_in.data, child.v_in.data = one[:1].clone(), one[1:2].clone()
        assert torch.allclose(torch.linalg.matrix_norm(child.change(one, "in")), torch.tensor(2.0).sqrt().to(one))
