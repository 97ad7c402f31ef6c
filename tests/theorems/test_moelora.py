"""MOELoRA: tasks share the experts and differ by how they weigh them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import moelora

pytestmark = pytest.mark.torch


def experts(model: nn.Module) -> list[tuple[kit.Site, moelora.Experts]]:
    return list(kit.at_sites(model, "moelora", moelora.Experts))


def shaken(family: str = "llama") -> nn.Module:
    torch.manual_seed(0)
    model = moelora.apply(tiny.model(family), r=6, alpha=6.0, dropout=0.0, experts=3, tasks=2, d_task=4)
    shake(model)
    return model


def outputs(model: nn.Module, task: int) -> Tensor:
    with torch.no_grad():
        return tiny.outputs(moelora.select(model, task), "llama")


@pytest.mark.parametrize("task", [1, 2])
def test_each_task_merges_into_a_model_of_its_own(task: int) -> None:
    model = shaken()
    wanted = outputs(model, task)
    other = outputs(model, 3 - task)
    moelora.merge(moelora.select(model, task))
    with torch.no_grad():
        merged = tiny.outputs(model, "llama")
    assert torch.allclose(merged, wanted, atol=tiny.TOLERANCE)
    assert not torch.allclose(merged, other, atol=1e-2)


def test_the_gate_by_hand() -> None:
    """A task's correction is the weighted sum of the experts' products; its weights are positive and sum to one."""
    model = moelora.select(shaken(), 2)
    gate = moelora.gate_of(model)
    logits = gate.G @ gate.e[2]
    weights = logits.exp() / logits.exp().sum()
    assert torch.allclose(gate.omega(), weights)
    for _, child in experts(model):
        total = sum(w * (b @ a) for w, b, a in zip(weights, child.B, child.A, strict=True))
        assert torch.allclose(child.delta(), child.scale * total)
        assert torch.linalg.matrix_rank(child.delta()) == min(6, *child.delta().shape)


def test_a_gate_that_picks_one_expert_leaves_the_others_out() -> None:
    model = shaken()
    with torch.no_grad():
        gate = moelora.gate_of(model)
        gate.e[1], gate.G[:] = 1.0, torch.tensor([[0.0], [500.0], [0.0]])
    before = outputs(model, 1)
    with torch.no_grad():
        for _, child in experts(model):
            child.B[0].add_(1.0)
            child.B[2].zero_()
    assert torch.equal(outputs(model, 1), before)


def test_training_one_task_moves_its_own_embedding_and_the_shared_experts() -> None:
    model = moelora.select(shaken(), 2)
    before = copy.deepcopy(model)
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    tiny.loss(model, "llama").backward()
    optimiser.step()
    gate, old = moelora.gate_of(model), moelora.gate_of(before)
    assert (gate.e != old.e).any(1).tolist() == [False, False, True]
    assert (gate.G != old.G).any(1).all()
    for (_, now), (_, then) in zip(experts(model), experts(before), strict=True):
        assert (now.B != then.B).flatten(1).any(1).all()
    assert not torch.allclose(outputs(model, 1), outputs(before, 1)), "the other task shares the experts"


def test_one_expert_is_a_lora_for_every_task() -> None:
    model = moelora.apply(tiny.model("llama"), r=2, experts=1, tasks=2, dropout=0.0)
    shake(model)
    for _, child in experts(model):
        assert torch.allclose(child.delta(), child.scale * child.B[0] @ child.A[0])
    assert torch.allclose(outputs(model, 1), outputs(model, 2))


@pytest.mark.parametrize("task", [0, 3])
def test_tasks_count_from_one(task: int) -> None:
    with pytest.raises(ValueError, match=f"task {task} of 2"):
        moelora.select(shaken(), task)
