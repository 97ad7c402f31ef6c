"""S4: its groups, its even budget, and the walk through design spaces that ends at such a model."""

from __future__ import annotations

import copy
import functools
import random
from typing import cast

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel

from reference_impls import _kit as kit
from reference_impls import s4
from reference_impls.s4 import Design

from ..knowledge import KB

pytestmark = pytest.mark.torch


@functools.cache
def _deep() -> nn.Module:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=37, hidden_size=12, num_hidden_layers=6, num_attention_heads=3, intermediate_size=20,
        max_position_embeddings=40, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    config._attn_implementation = "eager"
    return cast(nn.Module, BertModel(config)).double()


def deep() -> nn.Module:
    """A BERT of six layers, the same every time."""
    return copy.deepcopy(_deep()).eval()


def loss(model: nn.Module) -> torch.Tensor:
    ids = torch.randint(3, 37, (4, 7), generator=torch.Generator().manual_seed(1))
    values: torch.Tensor = model(input_ids=ids).last_hidden_state
    return ((values - torch.randn(values.shape, generator=torch.Generator().manual_seed(2)).double()) ** 2).mean()


def trained(model: nn.Module, layer: int | None = None) -> int:
    where = "" if layer is None else f".layer.{layer}."
    return sum(p.numel() for n, p in model.named_parameters() if p.requires_grad and where in n)


def test_each_group_has_its_strategies() -> None:
    model = s4.apply(deep(), budget=0.3, end_1=1, end_2=3, end_3=5)
    found = []
    for layer in range(6):
        moving = [n for n, p in model.named_parameters() if p.requires_grad]
        names = [n.rpartition(".")[2] for n in moving if f".layer.{layer}." in n]
        marks = {"A": "W_down", "L": "A_q", "P": "P_k", "B": "bias"}
        found.append({mark for mark, name in marks.items() if name in names})
    assert found == [{"A", "L"}, {"A", "P"}, {"A", "P"}, {"A", "P", "B"}, {"A", "P", "B"}, {"P", "B", "L"}]


@pytest.mark.parametrize("budget", [0.25, 0.3, 0.6])
def test_every_layer_gets_the_same_and_no_more_than_its_part(budget: float) -> None:
    model = s4.apply(deep(), budget=budget, end_1=1, end_2=3, end_3=5)
    part = budget * kit.inventory(model).backbone.parameters / 6
    smallest = {"A": 2 * 12 + 1, "L": 48, "P": 24}
    for layer, kinds in enumerate(["AL", "AP", "AP"]):      # what is left is less than one more unit of each strategy
        assert part - sum(smallest[k] for k in kinds) < trained(model, layer) <= part
    assert all(trained(model, layer) <= part for layer in range(6))
    assert trained(model) <= 6 * part
    cost = KB["s4"].cost(kit.inventory(deep()).backbone, task="none", budget=budget, end_1=1, end_2=3, end_3=5)
    assert trained(model) == cost.trained


def test_the_default_groups_of_twelve_layers_are_a_spindle() -> None:
    for model, ends in (("bert_base", [2, 6, 10]), ("t5_base", [2, 6, 10]), ("bert_large", [4, 12, 20])):
        found = KB["s4"].cost(model).hyperparameters
        assert [found[f"end_{i}"] for i in (1, 2, 3)] == ends
        assert KB["s4"].cost(model).percent < 0.5


def test_a_layer_whose_biases_do_not_fit_goes_without() -> None:
    design = Design((1, 3, 5), strategies=("B", "B", "B", "B"))
    assert trained(s4.build(deep(), design, 0.3)) == 6 * (7 * 12 + 20)
    assert trained(s4.build(deep(), design, 0.05)) == 0


def test_the_walk_finds_the_patterns_that_score_best() -> None:
    """A made-up score with a known best in each of the four parts, under noise."""
    draw = random.Random(0)

    def score(design: Design) -> float:
        pairs = [(set(a), set(b)) for a, b in zip(design.strategies, s4.STRATEGIES, strict=True)]
        near = sum(len(a & b) - len(a - b) for a, b in pairs)
        right = sum(a == b for a, b in pairs)
        patterns = (design.ends == (2, 6, 10)) + (design.weights == (1, 1, 1, 1)) + sum(design.tuned) / 4
        return patterns + 0.5 * right + 0.2 * near + draw.gauss(0, 0.1)

    found, log = s4.refine(score, 12, samples=40)
    assert (found.ends, found.weights, found.tuned) == ((2, 6, 10), (1, 1, 1, 1), (True,) * 4)
    assert [set(s) for s in found.strategies] == [set(s) for s in s4.STRATEGIES]
    assert [stage for stage, _, _ in log].count("ends") == 5
    assert len(log) == 5 + 3 + 7 + 4 * 15


def test_a_walk_with_real_trainings_stays_within_its_budget() -> None:
    budget, tried = 0.3, list[Design]()

    def score(design: Design) -> float:
        torch.manual_seed(0)
        model = s4.build(deep(), design, budget)
        moving = [p for p in model.parameters() if p.requires_grad]
        assert sum(p.numel() for p in moving) <= budget * kit.inventory(model).backbone.parameters
        tried.append(design)
        optimiser = torch.optim.Adam(moving or [torch.zeros(1, requires_grad=True)], lr=0.02)
        for _ in range(2):
            optimiser.zero_grad()
            loss(model).backward()
            optimiser.step()
        with torch.no_grad():
            return -loss(model).item()

    found, log = s4.refine(score, 6, samples=1)
    assert len(tried) == len(log) == 75
    for stage in ("ends", "weights", "tuned"):
        values = {choice: value for name, choice, value in log if name == stage}
        assert values[getattr(found, stage)] == max(values.values())
    assert score(found) > -loss(deep()).item()
