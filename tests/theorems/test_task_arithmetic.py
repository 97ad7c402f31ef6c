"""Task arithmetic: task vectors add up, in any order, and what is added can be taken away again."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from peftonomy.conformance import tiny
from peftonomy.conformance.trial import Trial
from reference_impls import task_arithmetic

pytestmark = pytest.mark.torch


def merged(inputs: list[dict[str, Tensor]], scale: float, model: nn.Module | None = None) -> nn.Module:
    model = task_arithmetic.apply(model or tiny.model("llama"), tasks=len(inputs), scale=scale)
    return task_arithmetic.combine(model, inputs)


def same(model: nn.Module, wanted: dict[str, Tensor]) -> bool:
    return all(torch.allclose(value, wanted[name]) for name, value in model.named_parameters())


def test_task_vectors_add_up_and_can_be_taken_away() -> None:
    first, second, third = Trial("task_arithmetic", "llama", {"tasks": 3, "scale": 1.0}).inputs
    plain = dict(tiny.plain("llama").named_parameters())
    assert same(merged([first], 1.0), first)
    assert same(merged([first], 0.0), plain)
    both = dict(merged([first, second], 1.0).named_parameters())
    assert same(merged([second, first], 1.0), both)
    without = {name: plain[name] - (first[name] - plain[name]) for name in plain}       # the negative task vector
    assert same(merged([first, second, without], 1.0), second)
    assert same(merged([first], -1.0), without)
    assert not same(merged([first, third], 1.0), both)
