"""EfficientQAT: trained step sizes move every weight and leave it on the grid of its codes."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from torch import Tensor

import peftonomy
from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import efficientqat

pytestmark = pytest.mark.torch

ROLES = ("attn.*", "mlp.*")


def steps_of(site: kit.Site) -> Tensor:
    return cast(efficientqat.Steps, site.module.get_submodule("efficientqat.weight")).s


def codes_of(site: kit.Site, group: int) -> Tensor:
    """Return code minus zero point of each weight, (d_out, groups, group), computed from the weights."""
    s = steps_of(site)
    return site.weight.unflatten(1, (-1, group)) / (s.T if site.transposed else s)[site.start : site.stop, :, None]


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("numel", [1, 10, 16, 61])
def test_codes_are_packed_without_loss_and_without_gaps(bits: int, numel: int) -> None:
    torch.manual_seed(0)
    codes = torch.randint(2**bits, (numel,))
    words = efficientqat.to_words(codes, bits)
    assert words.dtype == torch.int32
    assert len(words) == -(-numel // (32 // bits))
    assert torch.equal(efficientqat.from_words(words, bits, numel), codes.to(torch.int8))


@pytest.mark.parametrize(("bits", "group"), [(2, 8), (3, 4), (4, 8)])
def test_the_start_is_within_half_a_step_of_the_weights(bits: int, group: int) -> None:
    torch.manual_seed(0)
    weight = torch.randn(6, 16, dtype=torch.float64)
    weight[:, ::group], weight[:, 1::group] = weight[:, ::group].abs(), -weight[:, 1::group].abs()  # zero is inside
    codes, zero, s = efficientqat.quantise(weight, bits, group)
    assert codes.amin() == 0
    assert codes.amax() == 2**bits - 1
    assert torch.equal(zero, zero.round())
    step = s.repeat_interleave(group, 1)
    error = ((codes - zero.repeat_interleave(group, 1)) * step - weight).abs() / step
    assert 0.4 < error.max() <= 1, "rounding of the weight and of the zero point, half a step each"


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_training_moves_the_weights_and_keeps_their_codes(family: str) -> None:
    torch.manual_seed(0)
    model = efficientqat.apply(tiny.model(family), bits=3, group=2)
    sites = kit.sites(model, ROLES)
    weights = [site.weight.detach().clone() for site in sites]
    before = [codes_of(site, 2).detach().round() for site in sites]
    shake(model)
    with torch.no_grad():
        wanted = tiny.outputs(model, family)
        for site, old, codes in zip(sites, weights, before, strict=True):
            found = codes_of(site, 2)
            assert torch.allclose(found, codes, atol=1e-9), "still integers, and the same"
            assert codes.abs().max() <= 7
            change = site.weight - old
            assert torch.equal(change == 0, codes.flatten(1) == 0), "all move, except those at the zero point"
            assert torch.linalg.matrix_rank(change) == min(change.shape), "the change has full rank"
        merged = efficientqat.merge(model)
        assert torch.allclose(tiny.outputs(merged, family), wanted, atol=1e-12)


def test_all_weights_of_a_group_move_in_proportion_to_their_distance_from_the_zero_point() -> None:
    torch.manual_seed(0)
    model = efficientqat.apply(tiny.model("llama"), bits=4, group=2)
    site = kit.sites(model, ("attn.q",))[0]
    before = site.weight.detach().clone()
    s = steps_of(site)
    with torch.no_grad():
        s[1, 2] *= 1.5
    wanted = before.clone()
    wanted[1, 4:6] *= 1.5
    assert torch.allclose(site.weight, wanted, rtol=1e-14)


def test_the_frozen_weights_take_the_bits_of_code_and_zero_point() -> None:
    cost = peftonomy.load()["efficientqat"].cost("llama_7b", bits=2, group=64)
    inside = 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    assert cost.base_bytes == inside * 2 // 8 + inside // 64 * 2 // 8 + (cost.backbone - inside) * 4
    assert cost.trained == cost.stored == inside // 64
    assert cost.served == 0
