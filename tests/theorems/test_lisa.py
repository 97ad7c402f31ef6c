"""LISA: a turn moves its layers and all that is in none, and its states are gone when it ends."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import lisa

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("keep", [False, True])
def test_a_turn_moves_one_layer_and_what_is_in_none(keep: bool) -> None:
    torch.manual_seed(0)
    model = lisa.apply(tiny.model("llama"), n=1, interval=2, keep=keep)
    optimizer = lisa.optimizer(model, lr=0.01)
    weights = [w for w in kit.weights(model) if w.kind == "linear" or w.layer is None]
    drawn = []
    for _ in range(6):
        old = [w.value.detach().clone() for w in weights]
        for _ in range(2):
            optimizer.zero_grad()
            tiny.loss(model, "llama").backward()
            optimizer.step()
        moved = {w.layer for w, before in zip(weights, old, strict=True) if not torch.equal(w.value, before)}
        drawn += moved - {None}
        assert None in moved
    assert len(drawn) == 6
    assert set(drawn) == {0, 1}
    resting = [p for several in optimizer.layers.values() for p in several if not p.requires_grad]
    assert resting
    assert all((p in optimizer.state) == keep for p in resting)
