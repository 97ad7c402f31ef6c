"""GaLore: the rank of what its optimizer does."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import galore

pytestmark = pytest.mark.torch


def ranks(steps: int) -> dict[str, int]:
    """The rank of the change of every matrix of a LLaMA after some steps, with rank 2 and a new projection after 3."""
    torch.manual_seed(0)
    model = galore.apply(tiny.model("llama"), r=2, gap=3)
    old = {w.name: w.value.detach().clone() for w in kit.weights(model) if w.value.dim() == 2}
    optimizer = galore.optimizer(model, lr=0.01)
    for _ in range(steps):
        tiny.loss(model, "llama").backward()
        optimizer.step()
        optimizer.zero_grad()
    return {
        w.name: int(torch.linalg.matrix_rank(w.value.detach() - old[w.name], atol=1e-8, rtol=0))
        for w in kit.weights(model) if w.name in old
    }  # fmt: skip


def test_one_projection_allows_a_change_of_low_rank_and_two_allow_more() -> None:
    first, second = ranks(3), ranks(6)
    layers = [name for name in first if ".layers." in name]
    assert layers
    assert {first[name] for name in layers} == {2}
    assert {second[name] for name in layers} == {4}
    assert all(first[name] > 4 for name in first if name not in layers)
