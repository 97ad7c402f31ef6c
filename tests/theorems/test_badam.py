"""BAdam: one layer moves at a time, every layer once per round, and small steps add up in half precision."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import badam

pytestmark = pytest.mark.torch


def test_one_layer_moves_at_a_time_and_every_layer_once_per_round() -> None:
    torch.manual_seed(0)
    model = badam.apply(tiny.model("llama"), interval=2)
    optimizer = badam.optimizer(model, lr=0.01)
    weights, order = kit.weights(model), []
    for _ in range(4):
        old = [w.value.detach().clone() for w in weights]
        for _ in range(2):
            tiny.loss(model, "llama").backward()
            optimizer.step()
        order.append({w.layer for w, before in zip(weights, old, strict=True) if not torch.equal(w.value, before)})
        assert len(optimizer.state) == sum(w.value.requires_grad for w in weights)
    assert order[0] | order[1] == order[2] | order[3] == {0, 1}
    assert all(len(layers) == 1 for layers in order)


def test_steps_below_the_precision_of_a_weight_add_up_in_its_copy() -> None:
    model = badam.apply(tiny.model("llama").to(torch.bfloat16), interval=100)
    optimizer, plain = badam.optimizer(model, lr=1e-4), torch.nn.Parameter(torch.ones(4, 4, dtype=torch.bfloat16))
    adamw = torch.optim.AdamW([plain], lr=1e-4, weight_decay=0.0)
    [weight] = [p for p in optimizer.active if p.dim() == 2][:1]
    weight.data.fill_(1.0)
    optimizer.turn({place for place, several in optimizer.layers.items() if any(p is weight for p in several)})
    for _ in range(80):
        for p in (*optimizer.active, plain):
            p.grad = torch.ones_like(p)
        optimizer.step()
        adamw.step()
    assert (plain == 1).all()
    assert (weight < 0.996).all()
