"""Calls from Python with values of other types: an error of ours in one line, which pickles."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import peftonomy
from peftonomy import KnowledgeBase, PeftonomyError

BERT = {
    "model_type": "bert", "vocab_size": 100, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 16,
    "max_position_embeddings": 16, "type_vocab_size": 2,
}  # fmt: skip


def test_a_file_that_has_changed_is_read_again(kb: KnowledgeBase, tmp_path: Path) -> None:
    """Plans on models of the catalogue are kept; the path of a file does not identify its content."""
    path, found = tmp_path / "config.json", []
    for layers in (2, 3):
        path.write_text(json.dumps(BERT | {"num_hidden_layers": layers}))
        found.append(kb["lora"].cost(str(path), r=1).trained)
    assert found[0] * 3 == found[1] * 2
    assert kb["lora"].plan("bert_base") is kb["lora"].plan("bert_base")
    assert kb["lora"].plan("google-bert/bert-base-uncased") is kb["lora"].plan("google-bert/bert-base-uncased")


class Odd:
    def __repr__(self) -> str:
        raise RuntimeError


CALLS: dict[str, Callable[[KnowledgeBase, Any], Any]] = {
    "load": lambda kb, value: peftonomy.load(value),
    "method": lambda kb, value: kb[value],
    "model": lambda kb, value: kb["lora"].cost(value),
    "targets": lambda kb, value: kb["lora"].cost("bert_base", targets=value),
    "task": lambda kb, value: kb["lora"].cost("bert_base", task=value),
    "labels": lambda kb, value: kb["lora"].cost("bert_base", num_labels=value),
    "dtype": lambda kb, value: kb["lora"].cost("bert_base", dtype=value),
    "sweep": lambda kb, value: kb["lora"].sweep("bert_base", dtype=value),
    "value": lambda kb, value: kb["lora"].cost("bert_base", r=value),
    "memory": lambda kb, value: kb["lora"].memory("bert_base", batch=1, seq=8, optimizer=value),
    "list": lambda kb, value: kb.stored_list(value),
    "query": lambda kb, value: kb.query(value),
    "category": lambda kb, value: kb.query("", category=value),
    "adapter": lambda kb, value: kb.adapter(value, "bert_base"),
    "argument": lambda kb, value: kb.adapter({"peft_type": "LORA", "r": value}, "bert_base"),
    "check": lambda kb, value: peftonomy.check(kb, [value]),
    "config": lambda kb, value: peftonomy.Backbone.from_config(value, families=kb.families),
    "costs": lambda kb, value: kb.costs(value, "bert_base"),
    "compare": lambda kb, value: kb.compare(value, "lora"),
    "needs": lambda kb, value: kb.choose("bert_base", gpu="24GiB", needs=value),
    "graph": lambda kb, value: kb.graph.parents(value),
    "formula": lambda kb, value: peftonomy.Formula.parse(value)({}),
    "checkpointing": lambda kb, value: kb["lora"].memory("bert_base", batch=1, seq=8, checkpointing=value),
    "budget": lambda kb, value: kb.choose("bert_base", gpu="24GiB", trained=value),
    "plan": lambda kb, value: kb["lora"].plan("bert_base").values(value),
    "serving": lambda kb, value: kb["lora"].serving("bert_base", tp=value),
    "selection": lambda kb, value: kb.query("").only(value),
    "file of a method": lambda kb, value: kb.methods.path(value),
    "name of a file": lambda kb, value: kb.shown(value),
}
VALUES = {
    "number": 3.5, "list": [[]], "set": {1}, "digits": 10**5_000, "object": Odd(), "bytes": b"x", "long": "x" * 5_000,
}  # fmt: skip


FINE = {("formula", "number"), ("name of a file", "long"), ("file of a method", "long"), ("budget", "number")}
"""Calls that have an answer."""


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("call", CALLS)
def test_a_value_of_another_type_is_refused_in_one_short_line(kb: KnowledgeBase, call: str, value: str) -> None:
    if (call, value) in FINE:
        CALLS[call](kb, VALUES[value])
        return
    with pytest.raises(PeftonomyError) as caught:
        CALLS[call](kb, VALUES[value])
    text = str(caught.value)
    assert text.isprintable()
    assert len(text) < 1_200
    assert str(pickle.loads(pickle.dumps(caught.value))) == text


def test_a_sweep_takes_the_branch_that_a_query_takes(kb: KnowledgeBase) -> None:
    """The formula of boft divides by its number of blocks where that is not zero."""
    assert kb["boft"].sweep("electra_small").trained == kb["boft"].cost("electra_small").trained
    with pytest.raises(peftonomy.UsageError, match="out of its domain"):
        kb["boft"].sweep("electra_small", block_size=0)
