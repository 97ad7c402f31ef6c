"""FISH-DIP: only the worst examples choose, and each choice replaces the one before."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from peftonomy.conformance import tiny
from reference_impls import _sparse as sparse
from reference_impls import fish_dip

pytestmark = pytest.mark.torch


def per_example(model: nn.Module, sizes: tuple[float, ...]) -> Iterator[Tensor]:
    """Examples of the tiny batch, the loss of each times a number."""
    batch = tiny.batch("bert")
    for i, size in enumerate(sizes):
        values = model(**{name: value[i : i + 1] for name, value in batch.items()}).logits
        target = torch.randn(values.shape, generator=torch.Generator().manual_seed(i), dtype=torch.float64)
        yield size * ((values - target) ** 2).mean()


@pytest.mark.parametrize(("sizes", "worst"), [((1e3, 1.0, 1e4, 1.0), (0, 2)), ((1.0, 1e4, 1.0, 1e3), (1, 3))])
def test_the_worst_examples_alone_choose(sizes: tuple[float, ...], worst: tuple[int, ...]) -> None:
    model = fish_dip.apply(tiny.model("bert"), kept=0.02, hardest=2)
    fish_dip.calibrate(model, per_example(model, sizes))
    by_hand, total = tiny.model("bert"), dict[str, Tensor]()
    names = [n for n, _ in by_hand.named_parameters() if not n.startswith("classifier")]
    for i, loss in enumerate(per_example(by_hand, sizes)):
        if i in worst:
            by_hand.zero_grad()
            loss.backward()
            for name in names:
                gradient = by_hand.get_parameter(name).grad
                assert gradient is not None
                total[name] = total.get(name, torch.zeros_like(gradient)) + gradient**2
    ranked = torch.cat([t.flatten() for t in total.values()]).sort(descending=True).values
    masks = sparse.of(model, "fish_dip").masks
    assert sum(int(m.sum()) for m in masks.values()) == int(0.02 * len(ranked))
    assert all(torch.equal(masks[n], total[n] >= ranked[int(0.02 * len(ranked)) - 1]) for n in names)


def test_with_too_few_examples_the_best_one_is_left_out() -> None:
    model = fish_dip.apply(tiny.model("bert"), hardest=25)
    found = fish_dip.scores(model, per_example(model, (1e3, 1.0, 1e4)), 25)
    worst = fish_dip.scores(model, per_example(model, (1e3, 1.0, 1e4)), 2)
    assert all(torch.equal(found[name], worst[name]) for name in found)


def test_a_new_choice_replaces_the_mask_and_other_entries_move() -> None:
    model = fish_dip.apply(tiny.model("bert"), kept=0.02, hardest=1)
    start = {n: p.detach().clone() for n, p in model.named_parameters()}
    moved = []
    for sizes in ((1e4, 1.0, 1.0), (1.0, 1.0, 1e4)):
        fish_dip.renew(model, per_example(model, sizes))
        model.zero_grad()
        tiny.loss(model, "bert").backward()
        torch.optim.SGD(sparse.parameters(model).values(), lr=0.01).step()
        masks = sparse.of(model, "fish_dip").masks
        moved.append(sum(int((p != start[n]).sum()) for n, p in model.named_parameters()))
        changed = sum(int(m.sum()) for m in masks.values())
    assert moved[0] <= changed < moved[1]
