"""LIFT: the entries are the largest of an approximation, and a new choice keeps the moments of those that stay."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance import tiny
from reference_impls import lift

pytestmark = pytest.mark.torch


def test_the_entries_are_those_of_the_best_approximation_and_not_the_largest_of_the_weight() -> None:
    torch.manual_seed(0)
    signal = torch.outer(torch.tensor([3.0, 1.0, 0.1, 0.1, 0.1, 0.1]), torch.tensor([1.0, 0.9, 0.1, 0.1, 0.1]))
    weight = signal + 2.0 * torch.eye(6)[:, :5].roll(3, 0)          # large entries, which no rank-one matrix has
    chosen = set(lift.choose(weight, 1, 1)[:2].tolist())
    assert chosen == {0, 1}
    whole = lift.choose(weight, 1, 5)
    assert set(whole.tolist()) == set(weight.abs().flatten().topk(11).indices.tolist())
    assert set(lift.choose(weight, 1, 1).tolist()) != set(whole.tolist())


def test_a_choice_bounds_the_changed_entries_and_the_next_choice_adds_others() -> None:
    model = lift.apply(tiny.model("llama"), r=1, k=2, gap=4)
    own = lift.optimizer(model, lr=0.3)
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    changed = []
    for _ in range(5):
        own.zero_grad()
        tiny.loss(model, "llama").backward()
        own.step()
        changed.append(sum(int((p != start[name]).sum()) for name, p in model.named_parameters()))
    count = sum(sum(p.shape) for p in model.parameters() if p.requires_grad)
    assert changed[0] <= changed[2] <= count < changed[3]
    assert all(len(own.state[p]["exp_avg"]) == sum(p.shape) for p in model.parameters() if p.requires_grad)


def test_an_entry_that_stays_keeps_its_moments_and_a_new_one_has_none() -> None:
    model = lift.apply(tiny.model("llama"), r=1, k=2, gap=100)
    own = lift.optimizer(model, lr=0.3)
    for _ in range(3):
        tiny.loss(model, "llama").backward()
        own.step()
    weight = next(p for p in model.parameters() if p.requires_grad)
    before = dict(own.state[weight])
    old = dict(zip(before["chosen"].tolist(), before["exp_avg"].tolist(), strict=True))
    with torch.no_grad():
        weight.copy_(weight.flip(0) + 0.3 * weight)
    own.renew(own.state[weight], weight.detach(), own.param_groups[1])
    new = dict(zip(own.state[weight]["chosen"].tolist(), own.state[weight]["exp_avg"].tolist(), strict=True))
    assert 0 < len(old.keys() & new.keys()) < len(new)
    assert all(value == old.get(position, 0.0) for position, value in new.items())
