"""Recipes: steps without a backward pass, and layers that are trained in turn."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest

from peftonomy import KnowledgeBase, UsageError
from peftonomy.memory.answer import remembered
from peftonomy.memory.asked import Asked

from .knowledge import KB
from .operations_kit import Case, predicted

pytestmark = pytest.mark.torch
TURNS = [
    Case("llama", "badam", "bfloat16", "eager", batch=1, seq=2),
    Case("llama", "lisa", "mixed", hyperparameters={"n": 2, "keep": True}),
    Case("gpt2", "lisa", checkpointing=True, hyperparameters={"n": 1}),
]


def every(asked: Asked, number: int) -> list[frozenset[tuple[str, int]]]:
    """All choices of so many layers."""
    layers = [(stack, n) for stack, several in asked.inventory.backbone.layers.items() for n in range(several)]
    return [frozenset(chosen) for chosen in itertools.combinations(layers, number)]


# Without a backward pass


@pytest.mark.parametrize(("dtype", "attention"), [("float32", "eager"), ("float32", "sdpa")])
def test_a_step_without_a_backward_pass_is_the_simulated_one(dtype: str, attention: str) -> None:
    case = Case("llama", "mezo", dtype, attention)
    ours, found = predicted(case), case.simulate()
    assert (ours.peak, ours.kept, ours.phase) == (found.peak, found.kept, found.phase)
    assert ours.gradients == ours.optimizer_states == found.gradients == found.optimizer_states == 0
    assert (ours.forward_flops, ours.step_flops) == (found.forward_flops, found.step_flops)
    assert ours.step_flops == 2 * ours.forward_flops


def test_a_large_perturbation_is_the_peak_and_dropout_is_off() -> None:
    """With a short batch the perturbation of the embeddings is more than the activations."""
    case = Case("gpt2", "mezo", "bfloat16", "eager", batch=1, seq=1, config={"vocab_size": 500})
    ours, found = predicted(case), case.simulate()
    assert (ours.peak, ours.phase) == (found.peak, "optimizer") == (found.peak, found.phase)
    dropped = replace(case, seq=8, config={"attn_pdrop": 0.5, "resid_pdrop": 0.5, "embd_pdrop": 0.5})
    without = replace(dropped, config=dict.fromkeys(dropped.config, 0.0))
    assert predicted(dropped).peak == predicted(without).peak
    assert predicted(replace(dropped, checkpointing=True)).peak == predicted(without).peak


def test_no_other_optimizer_goes_with_it(kb: KnowledgeBase) -> None:
    with pytest.raises(UsageError, match="optimizer: found sgd; mezo updates by a rule of its own; expected adamw"):
        kb["mezo"].memory("gpt2", batch=1, seq=8, optimizer="sgd")


# In turns


@pytest.mark.parametrize("case", TURNS, ids=lambda case: f"{case.method} {case.family}")
def test_the_largest_turn_is_the_largest_of_all_simulated_ones(case: Case) -> None:
    asked = case.asked()
    ours, setup = predicted(case), case.setup()
    turns = every(asked, asked.program.together or 0)
    chosen = turns if len(turns) < 6 else [*setup.turns, *turns[1::4]]
    from reference_impls import _simulate

    with _simulate.fake():
        found = {turn: _simulate.measured(replace(setup, turns=[turn])) for turn in chosen}
    assert ours.peak == max(one.peak for one in found.values())
    for turn, one in found.items():
        mine = asked.in_turn(turn)
        assert (mine.peak, mine.kept, mine.optimizer_states) == (one.peak, one.kept, one.optimizer_states)
    assert len({one.kept for one in found.values()}) > 1 or case.method == "lisa"


@pytest.mark.parametrize(
    ("family", "method", "values"),
    [
        ("llama", "badam", {}), ("llama", "lisa", {"n": 3}), ("gemma3_text", "lisa", {"n": 2, "keep": True}),
        ("t5", "badam", {}), ("deepseek_v3", "lisa", {"n": 2}),
    ],
)  # fmt: skip
def test_no_other_turn_takes_more(family: str, method: str, values: dict[str, Any]) -> None:
    """With gradients that are more than the activations, and with fewer; written out, checkpointed, mixed."""
    for seq, changes in ((1, {}), (48, {"attention": "eager"}), (16, {"checkpointing": True}), (8, {"dtype": "mixed"})):
        case = Case(family, method, "bfloat16", seq=seq, hyperparameters=values)
        asked = replace(case, **changes).asked()
        turns = every(asked, asked.program.together or 0)
        assert len(asked.turns()) <= len(turns)
        assert asked.memory().peak == max(asked.in_turn(turn).peak for turn in turns), (seq, changes)


def test_a_form_answers_for_each_turn() -> None:
    case = Case("llama", "lisa", hyperparameters={"n": 2})
    for seq in (8, 9, 60):
        asked = replace(case, seq=seq).asked()
        found = remembered(KB, asked.plan, {"n": 2}, asked.setting)
        assert found == asked.memory()


def test_too_many_choices_are_refused(kb: KnowledgeBase) -> None:
    with pytest.raises(UsageError, match="lisa trains 30 layers at a time, of 1 kinds; expected fewer") as refused:
        kb["lisa"].memory("llama_2_7b", batch=1, seq=8, n=30)
    assert "\n" not in str(refused.value)


def test_several_gpus_are_refused(kb: KnowledgeBase) -> None:
    for method in ("mezo", "lisa", "badam"):
        for shard in ("fsdp", "ddp"):
            with pytest.raises(UsageError, match=f"gpus: found 2; the recipe of {method} is covered on one GPU only"):
                kb[method].memory("gpt2", batch=1, seq=8, gpus=2, shard=shard)
