"""Polytropon: a task that has one skill is that skill's LoRA, piece by piece with several heads."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import poly

pytestmark = pytest.mark.torch
ONLY = 60.0


def filled(n_splits: int) -> poly.Skills:
    torch.manual_seed(0)
    child = poly.Skills(6, 4, r=2, n_tasks=2, n_skills=3, n_splits=n_splits).double().eval()
    torch.nn.init.normal_(child.B)
    return child


def test_a_task_with_one_skill_is_a_lora() -> None:
    child = filled(1)
    child.Z.data[0] = torch.tensor([-ONLY, ONLY, -ONLY])
    assert torch.allclose(child.delta(), (child.A[0, 1] @ child.B[0, 1]).T / 2)


def test_heads_choose_for_their_pieces_alone() -> None:
    child = filled(2)
    child.Z.data[0] = torch.tensor([ONLY, -ONLY, -ONLY, -ONLY, -ONLY, ONLY])      # skill 0 for piece 0, 2 for piece 1
    first = torch.cat([child.A[0, 0], child.A[1, 2]])
    second = torch.cat([child.B[0, 0], child.B[1, 2]], dim=1)
    assert torch.allclose(child.delta(), (first @ second).T / 2)


def test_the_draw_of_training_is_another_each_time_and_sums_to_one() -> None:
    child = filled(2).train()
    one, other = child.weights(), child.weights()
    assert not torch.equal(one, other)
    assert torch.allclose(one.sum(-1), torch.ones(2).double())


@pytest.mark.parametrize("task", [0, 1])
def test_each_task_merges_into_a_model_of_its_own(task: int) -> None:
    model = poly.apply(tiny.model("llama"), r=2, n_tasks=2, n_skills=2, n_splits=2)
    shake(model)
    with torch.no_grad():
        wanted = tiny.outputs(poly.select(model, task), "llama")
        other = tiny.outputs(poly.select(model, 1 - task), "llama")
        merged = tiny.outputs(poly.merge(poly.select(model, task)), "llama")
    assert torch.allclose(merged, wanted, atol=tiny.TOLERANCE)
    assert not torch.allclose(merged, other, atol=1e-3)
    assert not list(kit.attached(model, "poly"))
    with pytest.raises(ValueError, match="task 2 of 2"):
        poly.select(poly.apply(model, n_tasks=2), 2)
