"""MeZO: its step is the gradient along one random direction, found without a backward pass."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import mezo

pytestmark = pytest.mark.torch


def test_a_step_moves_along_a_random_direction_by_the_slope_of_the_loss() -> None:
    model = mezo.apply(tiny.model("llama"), eps=1e-4).eval()
    weights = [w.value for w in kit.weights(model)]
    old = [w.detach().clone() for w in weights]
    tiny.loss(model, "llama").backward()
    gradients = [w.grad for w in weights]
    for weight in weights:
        weight.grad = None
    optimizer = mezo.optimizer(model, lr=0.01)
    optimizer.seed = lambda: 5
    optimizer.step(lambda: tiny.loss(model, "llama"))

    order = {id(p): i for i, p in enumerate(model.parameters())}
    generator = torch.Generator().manual_seed(5)
    drawn = {i: torch.randn(p.shape, generator=generator, dtype=p.dtype) for i, p in enumerate(model.parameters())}
    directions = [drawn[order[id(w)]] for w in weights]
    slope = sum((g * z).sum() for g, z in zip(gradients, directions, strict=True) if g is not None)
    # losses are in float32, so that their difference has three digits
    for weight, before, z in zip(weights, old, directions, strict=True):
        torch.testing.assert_close(weight.detach() - before, -0.01 * slope * z, rtol=2e-3, atol=1e-8)
    assert all(w.grad is None for w in weights)
    assert not optimizer.state
