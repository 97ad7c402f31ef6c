"""Published runs: for each configuration in `data/hf_peft_metamathqa.tsv` the numbers that peft reported.

Three of them: trainable parameters and all parameters exactly, and the bytes of the file that was saved, within one
percent beside the file's own head.
"""

from __future__ import annotations

import csv
import functools
import json
from pathlib import Path
from typing import Any

import pytest

import peftonomy

KB = peftonomy.load()
MODEL = "llama_3_2_3b"
FILE = Path(__file__).parent / "data" / "hf_peft_metamathqa.tsv"
OPTIMIZERS = {"lora-fa": "lora_fa"}
"""Methods that an optimiser makes of a configuration."""
HALF = {"ADAPTION_PROMPT", "LN_TUNING", "OSF"}
"""Types whose tensors keep the model's bfloat16; peft casts those of the others to float32."""
BUFFERS = {"GLORA", "FROD"}
"""Types that save what they do not train in the model's bfloat16, and positions (two for each entry) as int64."""
PRUNED = {"adalora--llama-3.2-3B-rank32"}
"""Runs that saved less than they trained: of AdaLoRA's triplets the file holds those that survived, about half."""
HEAD = 250
"""Bytes at most that a safetensors file spends on the name, shape and place of one tensor."""


@functools.cache
def rows() -> dict[str, dict[str, str]]:
    lines = [line for line in FILE.read_text().splitlines() if not line.startswith("#")]
    return {row["experiment"]: row for row in csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)}


def reported(row: dict[str, str]) -> tuple[int, int, int, int]:
    """Trained, total, bytes in the file, tensors in it (at most)."""
    if row["peft_type"] == "FULL":
        cost = KB["full_fine_tuning"].cost(MODEL, dtype="bfloat16")
        return cost.trained, cost.backbone, cost.stored_bytes, sum(t.sites for t in cost.tensors)
    config: dict[str, Any] = json.loads(row["config"]) | {"peft_type": row["peft_type"], "task_type": "CAUSAL_LM"}
    dtype = "bfloat16" if row["peft_type"] in HALF else "float32"
    adapter = KB.adapter(config, MODEL, method=OPTIMIZERS.get(row["optimizer"]), dtype=dtype)
    found, size = adapter.reported, adapter.reported.stored_bytes
    if row["peft_type"] in BUFFERS:
        positions = sum(2 * t.total for t in adapter.cost.tensors if t.name == "positions")
        size += 4 * positions - 2 * (found.stored - found.trained - positions)
    return found.trained, found.total, size, sum(t.sites for t in adapter.cost.tensors) + 8


def test_every_run_is_there() -> None:
    assert len(rows()) == 63


@pytest.mark.parametrize("run", rows())
def test_published_counts(run: str) -> None:
    row = rows()[run]
    trained, total, size, tensors = reported(row)
    assert (trained, total) == (int(row["trainable"]), int(row["total"]))
    if run in PRUNED:
        assert 0.4 * size < int(row["checkpoint_bytes"]) < 0.6 * size
    else:
        assert size <= int(row["checkpoint_bytes"]) <= size * 1.01 + HEAD * tensors
