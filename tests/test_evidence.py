"""Published runs: for each configuration in `evidence/hf_peft_metamathqa.jsonl` the numbers that peft reported.

Three of them: trainable parameters and all parameters exactly, and the bytes of the file that was saved, within one
percent beside the file's own head.
"""

from __future__ import annotations

import pytest

from benchmarks.published import HALF, MODEL, OPTIMIZERS, runs
from peftonomy.schema.evidence import Run

from .knowledge import KB

RUNS = {run.run: run for run in runs(KB)}
BUFFERS = {"GLORA", "FROD"}
"""Types that save what they do not train in the model's bfloat16, and positions (two for each entry) as int64."""
PRUNED = {"adalora--llama-3.2-3B-rank32"}
"""Runs that saved less than they trained: of AdaLoRA's triplets the file holds those that survived, about half."""
HEAD = 250
"""Bytes at most that a safetensors file spends on the name, shape and place of one tensor."""


def reported(run: Run) -> tuple[int, int, int, int]:
    """Trained, total, bytes in the file, tensors in it (at most)."""
    kind = run.setting.get("peft_type")
    if kind is None:
        cost = KB[run.method].cost(MODEL, dtype="bfloat16")
        return cost.trained, cost.backbone, cost.stored_bytes, sum(t.sites for t in cost.tensors)
    dtype = "bfloat16" if kind in HALF else "float32"
    config = {**run.setting, "task_type": "CAUSAL_LM"}
    adapter = KB.adapter(config, MODEL, method=OPTIMIZERS.get(run.optimizer or ""), dtype=dtype)
    assert adapter.method.id == run.method
    found, size = adapter.reported, adapter.reported.stored_bytes
    if kind in BUFFERS:
        positions = sum(2 * t.total for t in adapter.cost.tensors if t.name == "positions")
        size += 4 * positions - 2 * (found.stored - found.trained - positions)
    return found.trained, found.total, size, sum(t.sites for t in adapter.cost.tensors) + 8


def test_every_run_is_there() -> None:
    assert len(RUNS) == 63
    assert len(KB.evidence) == 63 + 31
    assert KB["lora"].evidence == [run for run in KB.evidence if run.method == "lora"]


@pytest.mark.parametrize("name", RUNS)
def test_published_counts(name: str) -> None:
    run = RUNS[name]
    trained, total, size, tensors = reported(run)
    assert (trained, total) == (run.trained, run.total)
    assert run.file_bytes is not None
    if name in PRUNED:
        assert 0.4 * size < run.file_bytes < 0.6 * size
    else:
        assert size <= run.file_bytes <= size * 1.01 + HEAD * tensors
