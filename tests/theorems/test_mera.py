"""MerA: the transport is optimal, and merging undoes a reordering of hidden units, which averaging does not."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import nn

from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import adaptersoup, mera

pytestmark = pytest.mark.torch
FAMILY = "roberta"


def trained(seed: int = 0, bottleneck: int = 6) -> nn.Module:
    torch.manual_seed(seed)
    model = mera.apply(tiny.model(FAMILY), bottleneck=bottleneck)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=0.5)
    return model


def adapters(model: nn.Module) -> list[mera.Recorded]:
    return [child for child in kit.attached(model, "mera") if isinstance(child, mera.Recorded)]


def reordered(model: nn.Module, noise: float = 0.0) -> nn.Module:
    """The same function, every adapter's hidden units in another order."""
    other = copy.deepcopy(model)
    for adapter in adapters(other):
        order = torch.randperm(len(adapter.b_down))
        while bool((order == torch.arange(len(order))).any()):
            order = torch.randperm(len(order))
        adapter.W_down.data, adapter.b_down.data = adapter.W_down.data[order], adapter.b_down.data[order]
        adapter.W_up.data = adapter.W_up.data[:, order]
        for parameter in adapter.parameters():
            parameter.data += noise * torch.randn_like(parameter)
    return other


def test_the_transport_costs_as_little_as_any_permutation_and_any_plan() -> None:
    torch.manual_seed(0)
    ours, theirs = torch.randn(5, 7, dtype=torch.float64), torch.randn(5, 7, dtype=torch.float64)
    cost = torch.cdist(ours, theirs).square()
    found = float(cost[range(5), mera.transport(ours, theirs)].sum())
    best = min(float(cost[range(5), list(order)].sum()) for order in itertools.permutations(range(5)))
    rows = np.kron(np.eye(5), np.ones(5))       # each unit of ours sends out 1
    columns = np.kron(np.ones(5), np.eye(5))    # each of theirs receives 1
    plan = linprog(cost.flatten().numpy(), A_eq=np.vstack([rows, columns]), b_eq=np.ones(10))
    assert found == pytest.approx(best)
    assert found == pytest.approx(plan.fun)
    assert found < float(cost.diagonal().sum())


@pytest.mark.parametrize("by", ["weights", "activations"])
def test_merging_with_a_reordered_copy_gives_the_original_back(by: str) -> None:
    model = trained()
    copies = [reordered(model) for _ in range(2)]
    with torch.no_grad():
        before = tiny.outputs(model, FAMILY)
        for one in (model, *copies):
            for adapter in adapters(one):
                adapter.seen = []
            assert torch.allclose(tiny.outputs(one, FAMILY), before)        # the same function
        mera.merge_adapters(model, copies, by=by)
        assert torch.allclose(tiny.outputs(model, FAMILY), before)


def test_averaging_without_alignment_does_not() -> None:
    model = trained()
    with torch.no_grad():
        before = tiny.outputs(model, FAMILY)
        averaged = adaptersoup.soup(copy.deepcopy(model), [model, reordered(model)], name="mera")
        assert (tiny.outputs(averaged, FAMILY) - before).abs().max() > 0.1


def test_noise_of_the_copies_averages_out() -> None:
    torch.manual_seed(3)
    truth = trained()
    noisy = [reordered(truth, noise=0.05) for _ in range(9)]
    merged = mera.merge_adapters(copy.deepcopy(noisy[0]), noisy[1:])
    order = mera.transport(mera.features(adapters(merged)[0], "weights"), mera.features(adapters(truth)[0], "weights"))
    error = adapters(merged)[0].W_down - adapters(truth)[0].W_down[order]
    assert error.std() < 0.5 * 0.05     # a third is expected of nine


def test_alignment_by_activations_needs_some() -> None:
    with pytest.raises(ValueError, match="nothing was recorded"):
        mera.merge_adapters(trained(), [trained(1)], by="activations")
