"""SparseAdapter: which entries survive, how many, and that the others stay dead."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from peftonomy.conformance import tiny
from reference_impls import sparseadapter

from ..knowledge import KB

pytestmark = pytest.mark.torch


def adapted(*, kept: float, score: str = "snip", bottleneck: int = 4) -> nn.Module:
    torch.manual_seed(0)
    return sparseadapter.apply(tiny.model("bert"), bottleneck=bottleneck, kept=kept, score=score)


def pruned(model: nn.Module) -> nn.Module:
    return sparseadapter.calibrate(model, (tiny.loss(model, "bert") for _ in range(2)))


def entries(model: nn.Module) -> Tensor:
    matrices = [m for a in sparseadapter._adapters(model, "sparseadapter") for m in a.W.values()]
    return torch.cat([m.detach().flatten() for m in matrices])


@pytest.mark.parametrize("kept", [0.05, 0.2, 0.4])
def test_snip_keeps_the_entries_that_a_hand_computation_picks(kept: float) -> None:
    model = adapted(kept=kept)
    tiny.loss(model, "bert").backward()
    matrices = [m for a in sparseadapter._adapters(model, "sparseadapter") for m in a.W.values()]
    scores = torch.cat([(m.detach() * m.grad).abs().flatten() for m in matrices])
    number = int(kept * len(scores))
    threshold = scores.sort(descending=True).values[number - 1]
    before = entries(model)
    model.zero_grad()
    after = entries(pruned(model))
    assert int((after != 0).sum()) == number, "the target sparsity is met exactly"
    assert torch.equal(after, torch.where(scores >= threshold, before, torch.zeros_like(before)))


def test_opposite_batches_cancel() -> None:
    """The absolute value is taken of the sum: on two batches that cancel all scores are zero."""
    model = adapted(kept=0.5)
    matrices = [m for a in sparseadapter._adapters(model, "sparseadapter") for m in a.W.values()]
    found = sparseadapter._scores(matrices, (sign * tiny.loss(model, "bert") for sign in (1, -1)), "snip")
    assert max(float(s.max()) for s in found) < 1e-12


def test_magnitude_keeps_the_largest_and_random_does_not_care() -> None:
    full = entries(adapted(kept=0.25))
    largest = full.abs().sort(descending=True).values[: len(full) // 4]
    kept = entries(pruned(adapted(kept=0.25, score="magnitude")))
    assert torch.equal(kept[kept != 0].abs().sort(descending=True).values, largest)
    random = entries(pruned(adapted(kept=0.25, score="random")))
    assert int((random != 0).sum()) == len(largest)
    assert 0.1 < ((random != 0) & (kept != 0)).sum() / len(largest) < 0.5


def test_pruned_entries_stay_zero_in_training() -> None:
    model = pruned(adapted(kept=0.3))
    dead = entries(model) == 0
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for _ in range(3):
        optimiser.zero_grad()
        tiny.loss(model, "bert").backward()
        optimiser.step()
    assert (entries(model)[dead] == 0).all()
    assert (entries(model)[~dead] != 0).all()


def test_pruning_by_snip_disturbs_the_gradient_flow_less_than_at_random() -> None:
    """To first order, the kept entries account for more of the loss than as many random ones."""
    held = {}
    for score in ("snip", "random"):
        model = pruned(adapted(kept=0.2, score=score))
        tiny.loss(model, "bert").backward()
        matrices = [m for a in sparseadapter._adapters(model, "sparseadapter") for m in a.W.values()]
        held[score] = sum(float((m.detach() * m.grad).abs().sum()) for m in matrices)
    assert held["snip"] > 2 * held["random"]


def test_large_sparse_is_wider_at_the_same_budget() -> None:
    dense = KB["sparseadapter"].cost("roberta_base", bottleneck=16, kept=1.0)
    wide = KB["sparseadapter"].cost("roberta_base", bottleneck=64, kept=0.25)
    biases = 24 * (64 - 16)
    assert wide.trained == dense.trained + biases
    assert wide.served > 3.9 * dense.served
