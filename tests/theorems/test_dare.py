"""DARE: the merge is that of task arithmetic on average, and each change is dropped or enlarged. peft does the same."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
from peft.utils.merge_utils import dare_linear
from torch import Tensor

from reference_impls import _merging, dare

pytestmark = pytest.mark.torch


def merge(inputs: list[dict[str, Tensor]], *, drop: float, average: bool = False, scale: float = 1.0) -> Tensor:
    weights = {"w": torch.zeros_like(inputs[0]["w"])}
    dare.merge_into(weights, inputs, drop, average, scale)
    return weights["w"]


def test_it_is_task_arithmetic_on_average() -> None:
    torch.manual_seed(0)
    inputs = [{"w": torch.randn(30, dtype=torch.float64)} for _ in range(2)]
    added = {"w": torch.zeros(30, dtype=torch.float64)}
    _merging.add(added, inputs, 0.5)
    assert torch.allclose(merge(inputs, drop=0.0, scale=0.5), added["w"])
    assert torch.allclose(merge(inputs, drop=0.0, average=True, scale=7.0), added["w"])     # with a scale of its own
    draws = torch.stack([merge(inputs, drop=0.3, scale=0.5) for _ in range(4000)])
    error = draws.std(0) / len(draws) ** 0.5
    assert ((draws.mean(0) - added["w"]).abs() < 5 * error).all()
    assert not torch.allclose(draws[0], added["w"])


def test_each_change_is_dropped_or_enlarged() -> None:
    torch.manual_seed(0)
    change = torch.rand(10_000, dtype=torch.float64) + 1
    found = merge([{"w": change}], drop=0.75) / change
    assert set(found.round(decimals=9).tolist()) == {0.0, 4.0}
    assert (found == 0).double().mean().item() == pytest.approx(0.75, abs=0.02)


def test_peft_gives_the_same_for_the_same_masks() -> None:
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randn(30, generator=generator, dtype=torch.float64) for _ in range(2)]
    masks = [torch.rand(30, generator=generator) < 0.6 for _ in rows]
    with patch.object(torch, "bernoulli", side_effect=[mask.double() for mask in masks]):
        theirs = dare_linear(rows, torch.full((2,), 0.5, dtype=torch.float64), 0.6)
    weights, ours = {"w": torch.zeros(30, dtype=torch.float64)}, iter(masks)
    dare.merge_into(weights, [{"w": row} for row in rows], 0.4, False, 0.5, draw=lambda *_: next(ours))
    assert torch.allclose(weights["w"], theirs)
