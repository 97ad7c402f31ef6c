"""LT-SFT: the winners are reset and trained again, and what they learn can be added up."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from peftonomy.conformance import tiny
from reference_impls import _sparse as sparse
from reference_impls import lt_sft

pytestmark = pytest.mark.torch


def train(model: nn.Module, family: str, steps: int, seed: int) -> None:
    """Gradient descent towards other random targets for every seed."""
    optimiser: Any = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    values = tiny.outputs(model, family)
    target = torch.randn(values.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for _ in range(steps):
        optimiser.zero_grad()
        ((tiny.outputs(model, family) - target) ** 2).mean().backward()
        optimiser.step()
    optimiser.zero_grad()


def tuned(family: str, seed: int, kept: float = 0.05) -> nn.Module:
    model = lt_sft.apply(tiny.model(family), kept=kept)
    train(model, family, 4, seed)
    lt_sft.rewind(model)
    train(model, family, 4, seed)
    return model


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_who_moved_furthest_wins_and_everything_is_put_back(family: str) -> None:
    by_hand = tiny.model(family)
    for name, parameter in by_hand.named_parameters():
        parameter.requires_grad_(not name.startswith("classifier"))
    train(by_hand, family, 4, seed=7)
    start = dict(tiny.model(family).named_parameters())
    moved = {n: (p - start[n]).abs() for n, p in by_hand.named_parameters() if p.requires_grad}
    ranked = torch.cat([m.flatten() for m in moved.values()]).sort(descending=True).values
    model = lt_sft.apply(tiny.model(family), kept=0.05)
    train(model, family, 4, seed=7)
    assert not all(torch.equal(p, start[n]) for n, p in model.named_parameters())
    lt_sft.rewind(model)
    assert all(torch.equal(p, start[n]) for n, p in model.named_parameters())
    masks = sparse.of(model, "lt_sft").masks
    for name, mask in masks.items():
        assert torch.equal(mask, moved[name] >= ranked[int(0.05 * len(ranked)) - 1]), name


def test_the_winners_are_trained_again_and_nothing_else() -> None:
    model = tuned("bert", seed=7)
    masks, moved = sparse.of(model, "lt_sft").masks, lt_sft.differences(model)
    assert all(torch.equal(moved[n] != 0, masks[n]) for n in masks)
    assert all(torch.equal(p, dict(tiny.model("bert").named_parameters())[n])
               for n, p in model.named_parameters() if n not in masks)


def test_retraining_the_winners_beats_keeping_what_they_had_learned() -> None:
    """Why they are trained again: cut out of the first phase, the same entries fit worse."""

    def loss(model: nn.Module) -> float:
        values = tiny.outputs(model, "bert")
        target = torch.randn(values.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
        return ((values - target) ** 2).mean().item()

    first = lt_sft.apply(tiny.model("bert"), kept=0.05)
    train(first, "bert", 4, seed=7)
    learned = lt_sft.differences(first)
    lt_sft.rewind(first)
    masks = sparse.of(first, "lt_sft").masks
    with torch.no_grad():
        for name, parameter in sparse.parameters(first).items():
            parameter.add_(learned[name] * masks[name])
    assert loss(tuned("bert", seed=7)) < loss(first) < loss(tiny.model("bert"))


def test_a_language_and_a_task_are_added_in_any_order() -> None:
    language, task = (lt_sft.pack(tuned("llama", seed)) for seed in (1, 2))
    changed: list[dict[str, Tensor]] = []
    for order in ((language, task), (task, language)):
        model = tiny.model("llama")
        for state in order:
            lt_sft.unpack(model, state)
        changed.append(dict(model.named_parameters()))
    start = dict(tiny.model("llama").named_parameters())
    for name, value in start.items():
        total = value.detach().clone().flatten()
        for state in (language, task):
            total[state[f"{name}@"]] += state[name]
        assert torch.allclose(changed[0][name].flatten(), total)
        assert torch.allclose(changed[1][name], changed[0][name])
    both = [set(language[f"{n}@"].tolist()) & set(task[f"{n}@"].tolist()) for n in start]
    assert any(both), "an overlap that never occurs proves nothing about adding"
