"""SD-LoRA: a later task changes how far the model goes along earlier directions, and never the directions."""

from __future__ import annotations

import itertools

import pytest
import torch

from peftonomy.conformance import tiny
from reference_impls import sd_lora

from ..knowledge import KB

pytestmark = pytest.mark.torch
TARGETS = ("attn.q", "attn.v")


def _trained(past: int = 2) -> tuple[torch.nn.Module, list[sd_lora.SDLoRA]]:
    """A model of the third task, of which the earlier tasks have random factors."""
    torch.manual_seed(0)
    model = sd_lora.apply(tiny.model("llama"), r=2, targets=TARGETS)
    for _ in range(past):
        for child in sd_lora.corrections(model):
            child.B.data.normal_()
        sd_lora.next_task(model)
    return model, sd_lora.corrections(model)


def test_training_scales_the_earlier_directions_alike_at_all_weights() -> None:
    model, children = _trained()
    before = [[child.B_p[:, i : i + 2] @ child.A_p[i : i + 2] for i in (0, 2)] for child in children]
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        tiny.loss(model, "llama").backward()
        optimizer.step()
    shared = children[0].shared
    assert shared.a.shape == (2,)
    assert not torch.allclose(shared.a, torch.full_like(shared.a, 0.8))
    for child, directions in zip(children, before, strict=True):
        assert child.shared is shared
        own = shared.b * child.B @ child.A
        wanted = own + sum(a * direction for a, direction in zip(shared.a, directions, strict=True))
        assert torch.allclose(child.delta(), wanted, atol=1e-6)
        assert own.abs().max() > 0


def test_a_direction_has_no_size() -> None:
    """Factors of another size, but with the same directions, leave the same model for the next task."""
    losses = []
    for size in (1.0, 25.0):
        torch.manual_seed(0)
        model = sd_lora.apply(tiny.model("llama"), r=2, targets=TARGETS)
        for child in sd_lora.corrections(model):
            child.A.data.mul_(size)
            child.B.data.normal_().mul_(size)
        sd_lora.next_task(model)
        for child in sd_lora.corrections(model):
            assert torch.linalg.norm(child.A_p).item() == pytest.approx(1, rel=1e-5)
            assert torch.linalg.norm(child.B_p).item() == pytest.approx(1, rel=1e-5)
            assert torch.linalg.norm(child.delta()) <= 0.8 + 1e-5
        losses.append(tiny.loss(model, "llama").item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_task_adds_one_trained_number() -> None:
    config = tiny.config("llama")
    trained = [KB["sd_lora"].cost(config, r=2, past=past, targets=list(TARGETS)).trained for past in range(4)]
    assert [after - before for before, after in itertools.pairwise(trained)] == [1, 1, 1]
    model, _ = _trained(3)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == trained[3]
