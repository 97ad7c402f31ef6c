"""Combinations of trained models and adapters: counts, memory, and the command that prints them."""

from __future__ import annotations

import json

import pytest

from peftonomy import KnowledgeBase, UsageError
from peftonomy.memory.combining import combination
from peftonomy.schema.combines import Combines

from .cli_kit import Run

MODEL = {
    "model_type": "llama", "vocab_size": 31, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "intermediate_size": 20, "max_position_embeddings": 16, "tie_word_embeddings": False,
}  # fmt: skip
NUMBERS = 2 * 31 * 8 + 2 * (8 * (2 * 8 + 2 * 4) + 3 * 8 * 20 + 2 * 8) + 8
LARGEST = 31 * 8


def test_the_inputs_are_whole_models_and_so_is_the_result(kb: KnowledgeBase) -> None:
    found = kb["task_arithmetic"].combination(MODEL, tasks=5, dtype="float32")
    assert (found.inputs, found.each, found.stored, found.trained) == (5, NUMBERS, NUMBERS, 0)
    assert (found.each_bytes, found.inputs_bytes, found.stored_bytes) == (4 * NUMBERS, 20 * NUMBERS, 4 * NUMBERS)
    assert (found.weights, found.temporary) == (4 * NUMBERS, 3 * 4 * LARGEST)
    assert found.peak == found.weights + found.temporary
    assert found.sum == "exact"
    assert kb["task_arithmetic"].combination(MODEL, tasks=50, dtype="float32").peak == found.peak
    assert kb["task_arithmetic"].combination(MODEL).peak == found.peak // 2


def test_the_largest_pass_counts(kb: KnowledgeBase) -> None:
    """The first holds the sizes of a whole model, the second the changes of all models at one parameter."""
    first, second = (kb["ties_merging"].combination(MODEL, tasks=n, dtype="float32") for n in (2, 40))
    assert first.temporary == 4 * (NUMBERS + 2 * LARGEST)
    assert second.temporary == LARGEST * (4 * 42 + 1)


def test_hyperparameters_of_the_inputs_follow_from_ours(kb: KnowledgeBase) -> None:
    """With an entry of this test, whose inputs are adapters at the same targets, in the later of two layers."""
    passes = [{"per": "site", "if": "layer >= 1", "temporary": "width * d_in", "together": "width * r"}]
    plan = kb["lora"].plan(MODEL, targets=["mlp.up"])
    for changes, each in (({"rename": {"r": "r"}}, 28 * 3), ({"set": {"r": "2 * r"}}, 28 * 6), ({"set": {"r": 1}}, 28)):
        record = Combines.model_validate({"method": "dora", "inputs": "r + 1", "passes": passes, **changes})
        entry = plan.entry.model_copy(update={"combines": record})
        plan.memo.pop("inputs", None)
        plan.entry = entry
        found = combination(kb, plan, {"r": 3}, "float32")
        assert (found.inputs, found.each) == (4, 2 * (each + 20))
        assert found.temporary == 4 * (8 + 3)
        assert found.weights == 4 * (NUMBERS + 2 * 28 * 3)


@pytest.mark.parametrize(
    ("method", "values", "message"),
    [
        ("lora", {}, "lora combines nothing: it trains its own tensors"),
        ("task_arithmetic", {"tasks": 0}, "tasks = 0 is out of its domain tasks >= 1"),
        ("task_arithmetic", {"dtype": "float8"}, "unknown dtype 'float8'"),
        ("task_arithmetic", {"tasks": 2**30, "model": "gpt3_175b"}, "takes more than 2"),
    ],
)  # fmt: skip
def test_what_has_no_answer_is_refused_in_a_line(
    kb: KnowledgeBase, method: str, values: dict[str, object], message: str
) -> None:
    model = values.pop("model", MODEL)
    with pytest.raises(UsageError, match=message) as refused:
        kb[method].combination(model, **values)
    assert "\n" not in str(refused.value)


def test_the_command_prints_what_python_returns(kb: KnowledgeBase, run: Run) -> None:
    line = "merge ties_merging --model roberta_base --set tasks=3 --dtype float32"
    found = kb["ties_merging"].combination("roberta_base", tasks=3, dtype="float32")
    assert json.loads(run(f"{line} --json").out) == json.loads(json.dumps(found.to_dict()))
    printed = run(line).out
    assert f"{found.peak:,}" in printed
    assert "3 inputs (full_fine_tuning)" in printed
    assert "another one than a weighted sum" in printed
    refused = run("merge lora --model roberta_base")
    assert (refused.code, refused.err) == (2, "error: lora combines nothing: it trains its own tensors\n")
