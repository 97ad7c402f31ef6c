"""CapaBoost: with the parameters of a LoRA, masks raise the rank, and without them the copies are one LoRA."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import capaboost, lora

pytestmark = pytest.mark.torch


def test_masked_copies_have_the_rank_of_all_and_the_parameters_of_one() -> None:
    torch.manual_seed(0)
    model = capaboost.apply(tiny.model("llama"), r=2, copies=3, targets=("attn.q",))
    shake(model)
    for site, child in kit.at_sites(model, "capaboost", capaboost.CapaBoost):
        assert sum(p.numel() for p in child.parameters()) == 2 * (site.d_in + site.d_out)
        assert torch.linalg.matrix_rank(child.delta()) == 6
        assert {int(mask.sum()) for mask in child.M} == {site.d_in}, "half of the entries of each mask"
        assert not torch.equal(child.M[0], child.M[1])


def test_without_masks_the_copies_are_a_lora_with_a_larger_scale() -> None:
    model = capaboost.apply(tiny.model("bert"), r=2, alpha=3.0, copies=3, density=1.0, targets=("attn.v",))
    plain = lora.apply(tiny.model("bert"), r=2, alpha=9.0, targets=("attn.v",))
    shake(model)
    ours = kit.at_sites(model, "capaboost", capaboost.CapaBoost)
    for (_, child), (_, pair) in zip(ours, kit.at_sites(plain, "lora", lora.LoRA), strict=True):
        pair.A.data, pair.B.data = child.A.data, child.B.data
        assert torch.linalg.matrix_rank(child.delta()) == 2
    assert torch.allclose(tiny.loss(model, "bert"), tiny.loss(plain, "bert"))
