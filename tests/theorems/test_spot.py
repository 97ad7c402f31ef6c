"""SPoT: prompts tell which task is near, and starting from the near one helps."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from peftonomy.conformance import tiny
from reference_impls import spot

pytestmark = pytest.mark.torch
LENGTH = 3


def wanted(task: int) -> Tensor:
    """The outputs that a task asks for: what the model says behind a secret prompt. Tasks 0 and 1 are related."""
    secret = torch.randn(LENGTH, 18, generator=torch.Generator().manual_seed(task // 2), dtype=torch.float64)
    own = torch.randn(LENGTH, 18, generator=torch.Generator().manual_seed(10 + task), dtype=torch.float64)
    model = spot.start(spot.apply(tiny.model("llama"), prompt_length=LENGTH), 2 * secret + 0.3 * own)
    with torch.no_grad():
        return tiny.outputs(model, "llama")


def fresh(start: Tensor | None = None) -> nn.Module:
    torch.manual_seed(0)
    model = spot.apply(tiny.model("llama"), prompt_length=LENGTH)
    return model if start is None else spot.start(model, start)


def tuned(task: int, steps: int, start: Tensor | None = None) -> tuple[Tensor, float]:
    """The prompt after some steps of prompt tuning on a task, and the loss there."""
    model, target = fresh(start), wanted(task)
    prompt = spot.prompt(model)
    optimiser = torch.optim.Adam([prompt], lr=0.05)
    for _ in range(steps):
        optimiser.zero_grad()
        ((tiny.outputs(model, "llama") - target) ** 2).mean().backward()
        optimiser.step()
    with torch.no_grad():
        return prompt.detach().clone(), ((tiny.outputs(model, "llama") - target) ** 2).mean().item()


def test_the_nearest_prompt_is_that_of_the_related_task_and_the_best_start() -> None:
    early = {f"task {task}": tuned(task, 15)[0] for task in (1, 2)}
    best = {f"task {task}": tuned(task, 40)[0] for task in (1, 2)}
    first, _ = tuned(0, 15)
    order = spot.nearest(first, early)
    assert order[0] == "task 1"
    assert spot.nearest(first, early, per_token=True)[0] == "task 1"
    after = {name: tuned(0, 5, source)[1] for name, source in best.items()}
    assert min(after, key=lambda name: after[name]) == order[0]
    assert after["task 1"] < tuned(0, 5)[1], "the start from a related task is better than a random one"


def test_a_transferred_prompt_starts_as_the_source_task() -> None:
    source, _ = tuned(1, 5)
    model = fresh(source)
    assert torch.equal(spot.prompt(model), source)
    model.zero_grad()
    tiny.loss(model, "llama").backward()
    assert spot.prompt(model).grad is not None
    assert not torch.equal(source, spot.prompt(fresh()))


def test_similarities_by_hand() -> None:
    a, b = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[3.0, 0.0], [0.0, 0.5]])
    of_means = (0.5 * 1.5 + 1.0 * 0.25) / math.sqrt((0.5**2 + 1.0**2) * (1.5**2 + 0.25**2))
    assert math.isclose(spot.similarity(a, b), of_means, rel_tol=1e-5)
    assert math.isclose(spot.similarity(a, b, per_token=True), 0.5, rel_tol=1e-5)
