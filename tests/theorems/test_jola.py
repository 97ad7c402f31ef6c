"""JoLA: closed gates leave the model as it was, open ones edit the heads, and the penalty is the chance to be open."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import jola

pytestmark = pytest.mark.torch


def edits(model: nn.Module) -> list[jola.Edit]:
    return [child for _, child in kit.at_sites(model, "jola", jola.Edit)]


def set_to(model: nn.Module, value: float) -> None:
    with torch.no_grad():
        for child in edits(model):
            child.A.normal_()
            child.v.normal_()
            child.log_g1.fill_(value)
            child.log_g2.fill_(value)


@pytest.mark.parametrize("training", [False, True])
def test_closed_gates_leave_the_model_and_open_gates_scale_and_shift_every_head(training: bool) -> None:
    torch.manual_seed(0)
    model = jola.apply(tiny.model("llama"))
    set_to(model, -40.0)
    assert torch.equal(tiny.outputs(model.train(training), "llama"), tiny.plain_outputs("llama"))
    set_to(model, 40.0)
    child = edits(model)[0].train(training)
    z = torch.randn(2, 3, 6, 4, dtype=torch.float64)
    edited = (1 + child.A) * z + child.v
    assert torch.allclose(child.before(z.flatten(-2)), edited.flatten(-2))
    assert not torch.allclose(tiny.outputs(model, "llama"), tiny.plain_outputs("llama"))


def test_the_penalty_is_the_share_of_draws_with_an_open_gate() -> None:
    torch.manual_seed(0)
    child = jola.Edit(8, 4).train()
    with torch.no_grad():
        child.log_g1.copy_(torch.tensor([[-2.0], [-0.8], [0.0], [1.0]]))
        share = torch.stack([child.gate("log_g1") > 0 for _ in range(20000)]).double().mean(0)
        exact = torch.stack([child.gate("log_g1") == 1 for _ in range(20000)]).double().mean(0)
    assert torch.allclose(share, child.open()["log_g1"].double(), atol=0.015)
    assert 0.01 < exact.min() < exact.max() < 0.95


def test_the_penalty_weighs_scales_more_and_shrinks_with_the_number_of_heads_twice() -> None:
    model = jola.apply(tiny.model("llama"))
    with torch.no_grad():
        for child in edits(model):
            child.log_g1.fill_(-40.0)
            child.log_g2.fill_(40.0)
    heads = sum(len(child.log_g2) for child in edits(model))
    layers = len(edits(model))
    for step, weight in ((0, 0.1), (7, 0.1 * math.exp(-0.07))):
        found = jola.penalty(model, step=step).item()
        assert found == pytest.approx((1 - weight) * layers / heads, rel=1e-5)


def test_in_evaluation_a_gate_has_no_temperature() -> None:
    child = jola.Edit(8, 2).eval()
    with torch.no_grad():
        child.log_g1.copy_(torch.tensor([[0.5], [-0.5]]))
    assert torch.allclose(child.gate("log_g1"), 1.2 * child.log_g1.sigmoid() - 0.1)
