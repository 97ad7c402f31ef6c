"""QA-LoRA: what was learned goes into the zero points of the quantised weights, exactly."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import peftonomy
from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import qa_lora

pytestmark = pytest.mark.torch


@pytest.mark.parametrize(("shape", "group"), [((7, 12), 4), ((5, 32), 32), ((3, 10), 4)])
def test_quantised_to_sixteen_values_within_half_a_step(shape: tuple[int, int], group: int) -> None:
    torch.manual_seed(0)
    weight = torch.randn(shape, dtype=torch.float64)
    grid = qa_lora.quantise(weight, group)
    assert grid.codes.dtype == torch.uint8
    assert int(grid.codes.max()) <= 15
    assert torch.equal(grid.zero, grid.zero.round())
    step = grid.scale.expand_as(grid.codes).flatten(1)[:, : shape[1]]
    error = (grid.weight() - weight).abs()
    assert (error <= step / 2 + 1e-12).all()
    assert (error / step).max() > 0.4, "a bound that is never approached proves nothing"
    assert torch.equal(qa_lora.quantise(torch.zeros(2, 8), 4).weight(), torch.zeros(2, 8))


def test_groups_of_one_lose_nothing() -> None:
    weight = torch.randn(6, 9, dtype=torch.float64)
    assert torch.allclose(qa_lora.quantise(weight, 1).weight(), weight, rtol=1e-14)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_merging_moves_zero_points_and_nothing_else(family: str) -> None:
    torch.manual_seed(0)
    model = qa_lora.apply(tiny.model(family), r=3, group=2)
    shake(model)
    pairs = kit.at_sites(model, "qa_lora", qa_lora.QALoRA)
    before = [(site, child, copy.deepcopy(child.grid)) for site, child in pairs]
    with torch.no_grad():
        wanted = tiny.outputs(model, family)
        assert torch.allclose(tiny.outputs(qa_lora.merge(model), family), wanted, atol=1e-5)
    for site, child, old in before:
        new = child.grid
        assert torch.equal(new.codes, old.codes)
        assert torch.equal(new.scale, old.scale)
        assert not torch.allclose(new.zero, old.zero, atol=1e-3)
        assert torch.equal(site.weight, new.weight())
        step = site.weight.unflatten(1, (-1, 2)) / old.scale                # of the merged model, in units of its scale
        assert torch.allclose((step + new.zero).round(), old.codes.double())
        assert torch.allclose(step + new.zero, (step + new.zero).round(), atol=1e-9), "still four bits"


def test_rounded_zero_points_would_lose_the_correction() -> None:
    """As packed formats would have them: merging needs zero points with fractions."""
    torch.manual_seed(0)
    model = qa_lora.apply(tiny.model("llama"), r=3, group=2)
    for _, child in kit.at_sites(model, "qa_lora", qa_lora.QALoRA):
        nn.init.normal_(child.B, std=0.02)
    with torch.no_grad():
        wanted = tiny.outputs(model, "llama")
        for _, child in kit.at_sites(model, "qa_lora", qa_lora.QALoRA):
            grid = child.merged()
            grid.zero = grid.zero.round()
            child.grid.zero.copy_(grid.zero)
        kit.detach(model, "qa_lora")
        assert not torch.allclose(tiny.outputs(model, "llama"), wanted, atol=1e-2)


def test_the_correction_is_the_same_for_all_inputs_of_a_group() -> None:
    torch.manual_seed(0)
    grid = qa_lora.quantise(torch.randn(5, 12, dtype=torch.float64), 4)
    child = qa_lora.QALoRA(grid, r=2, alpha=6.0, dropout=0.0).double()
    nn.init.normal_(child.B)
    x = torch.eye(12, dtype=torch.float64)
    delta = child.after(x, torch.zeros(12, 5, dtype=torch.float64)).T       # (d_out, d_in)
    assert torch.allclose(delta, delta.unflatten(1, (3, 4))[..., :1].expand(-1, -1, 4).flatten(1))
    assert torch.allclose(delta, (3.0 / 4 * child.B @ child.A).repeat_interleave(4, 1))
    assert torch.allclose(delta, child.merged().weight() - grid.weight())


def test_the_frozen_weights_take_five_bits_each() -> None:
    """Four for the code, and 32 for scale and zero point of every 32 weights."""
    cost = peftonomy.load()["qa_lora"].cost("llama_7b")
    inside = 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    assert cost.base_bytes == inside * 5 // 8 + (cost.backbone - inside) * 4
