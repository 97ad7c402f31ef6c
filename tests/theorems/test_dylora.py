"""DyLoRA: one pair of factors that works cut to any rank."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import dylora, lora

pytestmark = pytest.mark.torch


def outputs(model: nn.Module, b: int) -> Tensor:
    with torch.no_grad():
        return tiny.outputs(dylora.use(model.eval(), b), "llama")


def pairs(model: nn.Module) -> list[dylora.DyLoRA]:
    return [child for _, child in kit.at_sites(model, "dylora", dylora.DyLoRA)]


@pytest.mark.parametrize("b", [1, 2, 3, 4])
def test_cut_to_any_rank_it_is_lora_of_that_rank(b: int) -> None:
    model = dylora.apply(tiny.model("llama"), r=4, alpha=6.0)
    shake(model)
    small = lora.apply(tiny.model("llama"), r=b, alpha=6.0)
    for ours, (_, theirs) in zip(pairs(model), kit.at_sites(small, "lora", lora.LoRA), strict=True):
        theirs.A.data, theirs.B.data = ours.A[:b].detach().clone(), ours.B[:, :b].detach().clone()
    with torch.no_grad():
        wanted = tiny.outputs(small, "llama")
        assert torch.allclose(outputs(model, b), wanted, atol=1e-6)
        assert b == 4 or not torch.allclose(outputs(model, 4), wanted, atol=1e-3)
        merged = dylora.merge(dylora.use(model, b))
        assert torch.allclose(tiny.outputs(merged, "llama"), wanted, atol=1e-5)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_step_moves_the_rows_that_it_may(frozen: bool) -> None:
    model = dylora.apply(tiny.model("llama"), r=5, alpha=6.0, frozen=frozen)
    shake(model)
    before = [outputs(model, b) for b in range(1, 6)]
    old = copy.deepcopy(pairs(model))
    dylora.use(model, 3)
    tiny.loss(model, "llama").backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1).step()
    rows = [2] if frozen else [0, 1, 2]
    for new, was in zip(pairs(model), old, strict=True):
        for change in ((new.A - was.A).abs().sum(1), (new.B - was.B).abs().sum(0)):
            assert change.nonzero()[:, 0].tolist() == rows
    same = [torch.equal(outputs(model, b), before[b - 1]) for b in range(1, 6)]
    assert same == [frozen, frozen, False, False, False]


def test_draws_every_rank_in_training_and_none_in_evaluation() -> None:
    model = dylora.apply(tiny.model("bert"), r=4)
    rank: Any = model.get_submodule("dylora")
    tiny.outputs(model, "bert")
    assert rank.b == 4
    model.train()
    torch.manual_seed(0)
    drawn = [tiny.outputs(model, "bert") is not None and rank.b for _ in range(60)]
    assert set(drawn) == {1, 2, 3, 4}


def loss(model: nn.Module) -> torch.Tensor:
    """How far a classifier's answers, which a correction can fit, are from fixed random ones."""
    answers = tiny.outputs(model, "bert")
    target = torch.randn(answers.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return ((answers - target) ** 2).mean()


def fitted(module: Any, **settings: Any) -> nn.Module:
    """A model trained towards that loss."""
    model: nn.Module = module.apply(tiny.model("bert"), alpha=8.0, **settings).train()
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.02)
    for _ in range(60):
        optimiser.zero_grad()
        loss(model).backward()
        optimiser.step()
    return model.eval()


@pytest.mark.parametrize("frozen", [True, False])
def test_every_rank_works_after_training(frozen: bool) -> None:
    torch.manual_seed(0)
    start = loss(tiny.model("bert")).item()
    model = fitted(dylora, r=4, frozen=frozen)
    assert all(loss(dylora.use(model, b)).item() < 0.5 * start for b in (1, 2, 3, 4))


def test_cut_to_rank_one_it_is_better_than_lora_that_was_trained_whole() -> None:
    ours, theirs = [], []
    for seed in range(3):
        torch.manual_seed(seed)
        ours.append(loss(dylora.use(fitted(dylora, r=4, frozen=False), 1)).item())
        whole, cut = fitted(lora, r=4), []
        for scale in (2.0, 8.0):                        # alpha over the rank it was trained at, and over what is left
            for _, child in kit.at_sites(whole, "lora", lora.LoRA):
                child.A.data, child.B.data, child.scale = child.A[:1], child.B[:, :1], scale
            cut.append(loss(whole).item())
        theirs.append(min(cut))
    assert sum(ours) < 0.8 * sum(theirs)
