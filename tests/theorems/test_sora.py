"""SoRA: gates go to zero and stay there while the loss does not ask for them; their ranks leave no trace."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import sora

pytestmark = pytest.mark.torch


def test_shrinking_is_the_proximal_step_of_the_absolute_value() -> None:
    """The shrunk gate minimises xi |z| + (z - g)^2 / 2, which a fine grid confirms."""
    model = sora.apply(tiny.model("bert"), r=5, targets=("attn.v",))
    [child, *_] = sora.corrections(model)
    gates = torch.tensor([-0.9, -0.2, 0.0, 0.29, 0.31]).to(child.g)
    child.g.data.copy_(gates)
    sora.shrink(model, xi=0.3)
    grid = torch.linspace(-1, 1, 20001).to(gates)
    best = grid[(0.3 * grid.abs() + (grid[:, None] - gates).T ** 2 / 2).argmin(1)]
    assert torch.allclose(child.g, best, atol=1e-4)
    assert child.g.eq(0).tolist() == [False, True, True, True, False]


def test_a_rank_with_a_closed_gate_can_be_removed() -> None:
    model = sora.apply(tiny.model("llama"), r=4, targets=("attn.q", "mlp.down"))
    shake(model)
    for number, child in enumerate(sora.corrections(model)):
        child.g.data[: 1 + number % 3] = 0
    before = tiny.loss(model, "llama")
    sora.finish(model)
    assert {len(child.g) for child in sora.corrections(model)} == {1, 2, 3}
    assert torch.allclose(tiny.loss(model, "llama"), before)


def test_gates_that_the_loss_does_not_need_close() -> None:
    """With B at zero the loss gives the gates no gradient, so shrinking alone decides, and closes all of them."""
    model = sora.apply(tiny.model("bert"), r=3, targets=("attn.q",))
    for child in sora.corrections(model):
        child.g.data.fill_(0.05)
    tiny.loss(model, "bert").backward()
    assert all(child.g.grad is not None and not child.g.grad.any() for child in sora.corrections(model))
    for _ in range(3):
        sora.shrink(model, xi=0.02)
    assert not torch.cat([child.g for child in sora.corrections(model)]).any()
    sora.finish(model)
    assert torch.allclose(tiny.loss(model, "bert"), tiny.loss(tiny.model("bert"), "bert"))
