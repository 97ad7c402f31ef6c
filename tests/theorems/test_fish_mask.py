"""FISH Mask: the mask is what a computation by hand says, one ranking over the whole model."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from peftonomy.conformance import tiny
from reference_impls import _sparse as sparse
from reference_impls import fish_mask

pytestmark = pytest.mark.torch


def per_example(model: nn.Module, family: str) -> Iterator[Tensor]:
    """The tiny batch, one example at a time."""
    batch = tiny.batch(family)
    for i in range(4):
        values = model(**{name: value[i : i + 1] for name, value in batch.items()}).logits
        target = torch.randn(values.shape, generator=torch.Generator().manual_seed(i), dtype=torch.float64)
        yield ((values - target) ** 2).mean()


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_the_mask_is_the_largest_mean_squared_gradients_of_single_examples(family: str) -> None:
    by_hand = tiny.model(family)
    total = {n: torch.zeros_like(p) for n, p in by_hand.named_parameters() if not n.startswith("classifier")}
    for loss in per_example(by_hand, family):
        by_hand.zero_grad()
        loss.backward()
        for name, parameter in by_hand.named_parameters():
            if name in total:
                total[name] += parameter.grad**2 / 4  # type: ignore[operator]
    ranked = torch.cat([t.flatten() for t in total.values()]).sort(descending=True).values
    count = math.floor(0.03 * len(ranked))
    model = fish_mask.apply(tiny.model(family), kept=0.03)
    fish_mask.calibrate(model, per_example(model, family))
    masks = sparse.of(model, "fish_mask").masks
    assert masks.keys() == total.keys()
    for name, mask in masks.items():
        assert torch.equal(mask, total[name] >= ranked[count - 1]), name


def test_opposite_examples_do_not_cancel() -> None:
    """Squares of sums would be zero everywhere; sums of squares are not."""
    model = fish_mask.apply(tiny.model("bert"), kept=0.01)
    one = fish_mask.fisher(model, [tiny.loss(model, "bert")])
    both = fish_mask.fisher(model, (sign * tiny.loss(model, "bert") for sign in (1, -1)))
    assert all(torch.allclose(both[n], 2 * one[n]) for n in one)
    assert max(float(s.max()) for s in one.values()) > 0


def test_the_mask_is_fixed_while_training() -> None:
    model = fish_mask.apply(tiny.model("llama"), kept=0.02)
    fish_mask.calibrate(model, [tiny.loss(model, "llama")])
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(4):
        optimiser.zero_grad()
        tiny.loss(model, "llama").backward()
        optimiser.step()
    masks = sparse.of(model, "fish_mask").masks
    moved = {n: p != before[n] for n, p in model.named_parameters()}
    assert all(not (moved[n] & ~masks[n]).any() for n in moved)
    assert sum(int(m.sum()) for m in moved.values()) > 0.9 * sum(int(m.sum()) for m in masks.values())
