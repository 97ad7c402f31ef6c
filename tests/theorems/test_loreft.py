"""LoReFT: what an edit leaves alone, in directions, in positions, and in generation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import direft, loreft, noreft

pytestmark = pytest.mark.torch


def shaken(family: str, **settings: int) -> nn.Module:
    torch.manual_seed(0)
    model = loreft.apply(tiny.model(family), r=2, **settings)
    shake(model)
    return model


def test_an_edit_sets_the_directions_and_nothing_else() -> None:
    [first, *_] = [c for c in kit.attached(shaken("gpt2"), "loreft") if isinstance(c, loreft.Intervention)]
    h = torch.randn(5, 24, dtype=torch.float64)
    R, edited = first.directions(0), first.edit(h, 0)
    assert torch.allclose(R @ R.T, torch.eye(2, dtype=torch.float64))
    assert torch.allclose(edited @ R.T, h @ first.W[0].T + first.b[0])
    others = torch.eye(24, dtype=torch.float64) - R.T @ R
    assert torch.allclose(edited @ others, h @ others)


@pytest.mark.parametrize("method", [loreft, noreft, direft])
def test_only_both_ends_are_edited(method: Any) -> None:
    model = method.apply(tiny.model("gpt2"), r=2, prefix_positions=1, suffix_positions=2, tied=False)
    seen: list[torch.Tensor] = []
    for m in (model, tiny.model("gpt2")):
        block = kit.blocks(m, "layer")[0].module
        block.register_forward_hook(lambda _, __, h: seen.append(h[0] if isinstance(h, tuple) else h))
        with torch.no_grad():
            tiny.outputs(m, "gpt2")
    changed = (seen[0] - seen[1]).abs().amax(-1) > 1e-9                    # (4, 7); the lengths are 7, 5, 4 and 7
    ends = [[0, 5, 6], [0, 3, 4], [0, 2, 3], [0, 5, 6]]
    assert [row.nonzero().flatten().tolist() for row in changed] == ends


def test_ends_are_those_of_the_real_tokens() -> None:
    """Wherever the padding is; and each end is at most half of them."""
    positions = loreft.Positions(2, 3)
    positions.mask = torch.tensor([[0, 1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 1]])
    first, last = positions.find(torch.zeros(3, 7, 1))
    assert [row.nonzero().flatten().tolist() for row in first] == [[1, 2], [0], []]
    assert [row.nonzero().flatten().tolist() for row in last] == [[4, 5, 6], [2], []]


def test_generated_tokens_are_left_alone() -> None:
    model = shaken("llama", prefix_positions=2, suffix_positions=0)
    ids = torch.tensor([[5, 9, 30, 11, 8]])
    with torch.no_grad():
        start = model(ids[:, :4], use_cache=True)
        step = model(ids[:, 4:], cache=start.past_key_values).logits
        assert (step - model(ids).logits[:, 4:]).abs().max() < tiny.TOLERANCE
