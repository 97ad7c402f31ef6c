"""AutoPEFT: a real search over a small space; its front of score and size, and its budget."""

from __future__ import annotations

import functools
import itertools

import pytest
import torch

from peftonomy.conformance import tiny
from peftonomy.conformance.trial import layout
from reference_impls import autopeft
from reference_impls.autopeft import Configuration

from ..knowledge import KB

pytestmark = pytest.mark.torch


def subsets(n: int) -> list[frozenset[int]]:
    return [frozenset(s) for k in range(1, n + 1) for s in itertools.combinations(range(n), k)]


def space(sizes: tuple[int, ...], n_layers: int) -> list[Configuration]:
    return [
        Configuration(serial, parallel, length, on)
        for serial, parallel, length in itertools.product(sizes, repeat=3)
        for on in subsets(n_layers)
        if serial or parallel or length
    ]


def area(tried: dict[Configuration, float], most: int) -> float:
    """Under the best score for every size up to `most`, above zero."""
    found = autopeft.front(tried, size)
    steps = [size(a) for a in found]
    return sum((b - a) * tried[c] for a, b, c in zip(steps, [*steps[1:], most], found, strict=True))


def size(a: Configuration) -> int:
    return len(a.layers) * (10 * a.serial + 10 * a.parallel + 8 * a.prefix_length)


def quality(a: Configuration) -> float:
    """A made-up score: layers differ in worth, sizes saturate, serial adapters are useless beside parallel ones."""
    worth = sum((0.05, 0.3, 0.5, 0.15)[layer] for layer in a.layers)
    gain = 1 - 0.6 ** (a.parallel or 0.4 * a.serial) + 0.4 * (a.prefix_length > 0)
    return worth * gain


def test_it_finds_nearly_the_whole_front_with_few_trials_and_more_than_chance_does() -> None:
    candidates, most = space((0, 1, 2, 4), 4), 300
    everything = {a: quality(a) for a in candidates if size(a) <= most}
    assert len(everything) > 500
    guided: list[float] = []
    chance: list[float] = []
    for seed in range(3):
        for steps, areas in ((30, guided), (0, chance)):
            initial = 40 - steps
            tried = autopeft.search(quality, size, candidates, budget=most, initial=initial, steps=steps, seed=seed)
            assert len(tried) == 40
            assert all(size(a) <= most for a in tried)
            areas.append(area(tried, most) / area(everything, most))
    assert min(guided) > 0.95
    assert min(guided) > max(chance)


def test_expected_growth_is_the_mean_growth_of_the_area() -> None:
    torch.manual_seed(0)
    tried, scores = torch.tensor([10.0, 30.0, 60.0]).double(), torch.tensor([0.2, 0.1, 0.6]).double()
    cost, mean, deviation = torch.tensor([20.0, 5.0, 80.0]).double(), torch.tensor([0.5, 0.1, 0.5]).double(), 0.3

    def curve(costs: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        grid = torch.arange(100).double() + 0.5
        reached = torch.where(costs[:, None] <= grid, values[:, None], scores.min())
        return reached.max(0).values.clamp(min=scores.min().item()).sum()

    found = autopeft.growth(cost, mean, torch.full_like(mean, deviation), tried, scores, 100)
    for i in range(3):
        draws = mean[i] + deviation * torch.randn(4000, dtype=torch.float64)
        grown = torch.stack([curve(torch.cat([tried, cost[i : i + 1]]), torch.cat([scores, d[None]])) for d in draws])
        wanted, error = (grown - curve(tried, scores)).mean(), grown.std() / 4000**0.5
        assert abs(found[i] - wanted) < 4 * error


def test_the_surrogate_passes_through_what_was_seen_and_is_unsure_elsewhere() -> None:
    x = torch.linspace(0, 6, 13, dtype=torch.float64)[:, None]
    mean, deviation = autopeft.predict(x, x[:, 0].sin(), torch.cat([x, x + 0.25, x + 40]))
    assert torch.allclose(mean[:13], x[:, 0].sin(), atol=0.02)
    assert torch.allclose(mean[13:25], (x[:-1, 0] + 0.25).sin(), atol=0.05)
    assert deviation[26:].min() > 5 * deviation[:25].max()


def test_a_search_with_real_trainings_stays_within_its_budget() -> None:
    budget, plain = 400, tiny.model("bert")

    @functools.cache
    def count(a: Configuration) -> int:
        return autopeft.numbers(plain, a)

    def score(a: Configuration) -> float:
        torch.manual_seed(0)
        model = autopeft.build(tiny.model("bert"), a)
        moving = [p for p in model.parameters() if p.requires_grad]
        assert sum(p.numel() for p in moving) == count(a) <= budget
        optimiser = torch.optim.Adam(moving, lr=0.02)
        for _ in range(6):
            optimiser.zero_grad()
            tiny.loss(model, "bert").backward()
            optimiser.step()
        return -tiny.loss(model, "bert").item()

    candidates = space((0, 2, 5), 2)
    assert max(map(count, candidates)) > budget
    tried = autopeft.search(score, count, candidates, budget=budget, initial=5, steps=7)
    best = autopeft.front(tried, count)
    assert [count(a) for a in best] == sorted(count(a) for a in best)
    assert [tried[a] for a in best] == sorted(tried[a] for a in best)
    assert max(tried.values()) > -tiny.loss(tiny.model("bert"), "bert").item()


def test_layers_that_are_off_cost_nothing_wherever_they_are() -> None:
    backbone, task, labels = layout("bert")
    declared = KB["autopeft"].cost(
        backbone, task=task, num_labels=labels, serial=3, parallel=4, prefix_length=2, dropped=1
    )
    for layer in (0, 1):
        a = Configuration(3, 4, 2, frozenset({layer}))
        assert autopeft.numbers(tiny.model("bert"), a) == declared.trained
        model = autopeft.build(tiny.model("bert"), a)
        assert all(f"layer.{layer}." in n for n, p in model.named_parameters() if p.requires_grad)
