"""Published training runs against predictions of memory: `python -m benchmarks.published`.

The runs are those of peft's method comparison (`tests/data/hf_peft_metamathqa.tsv`, `memory/measured.tsv`):
Llama-3.2-3B, bfloat16, four sequences of at most 768 tokens, one GPU. Predicted is a training step with four sequences
of 768 tokens, adapters in float32 under autocast. Their peak is that of the whole run, evaluation with generation
included, and few batches are as long as that. So the two are not the same thing: compare the order, and the differences
between methods, rather than the numbers. Rows are written to memory/published.tsv; a run whose method does not say yet
what its training keeps alive has the reason in place of a number.
"""

from __future__ import annotations

import csv
import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scipy.stats import spearmanr

import peftonomy
from peftonomy import PeftonomyError
from peftonomy.memory.answer import Training
from peftonomy.memory.setting import Memory, Setting

ROOT = Path(__file__).parent
RUNS = ROOT.parent / "tests" / "data" / "hf_peft_metamathqa.tsv"
MEASURED, TABLE = ROOT / "memory" / "measured.tsv", ROOT / "memory" / "published.tsv"
MODEL, BATCH, SEQ = "llama_3_2_3b", 4, 768
OPTIMIZERS = {"lora-fa": "lora_fa"}
"""Methods that an optimiser makes of a configuration."""
HALF = {"ADAPTION_PROMPT", "LN_TUNING", "OSF", "FULL"}
"""Types whose tensors keep the model's bfloat16; peft casts those of the others to float32."""
COLUMNS = ("experiment", "method", "measured_peak", "measured_p99", "predicted_peak", "error_percent", "note")


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a table."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))


def predicted(kb: peftonomy.KnowledgeBase, run: Mapping[str, str]) -> tuple[str, Memory]:
    """The method of a run, and the memory of a step of it. Raises PeftonomyError."""
    setting = Setting(BATCH, SEQ, dtype="bfloat16" if run["peft_type"] in HALF else "mixed")
    if run["peft_type"] == "FULL":
        return "full_fine_tuning", kb["full_fine_tuning"].on(MODEL).training.memory({}, setting)
    config: dict[str, Any] = json.loads(run["config"]) | {"peft_type": run["peft_type"], "task_type": "CAUSAL_LM"}
    adapter = kb.adapter(config, MODEL, method=OPTIMIZERS.get(run["optimizer"]))
    return adapter.method.id, Training(kb, adapter.plan).memory(adapter.hyperparameters, setting)


def compared(kb: peftonomy.KnowledgeBase) -> list[dict[str, Any]]:
    """One row a run."""
    configured = {run["experiment"]: run for run in read(RUNS)}
    rows = []
    for found in read(MEASURED):
        run, measured = configured[found["experiment"]], int(found["memory_max_bytes"])
        row: dict[str, Any] = {"experiment": run["experiment"], "measured_peak": measured}
        row["measured_p99"] = found["memory_reserved_p99_bytes"]
        try:
            method, memory = predicted(kb, run)
            row |= {"method": method, "predicted_peak": memory.peak}
            row["error_percent"] = f"{100 * (memory.peak / measured - 1):.1f}"
        except PeftonomyError as error:
            row["note"] = str(error)
        rows.append(row)
    return rows


def main() -> None:
    rows = compared(peftonomy.load())
    TABLE.parent.mkdir(exist_ok=True)
    with TABLE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(
            file, COLUMNS, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE, quotechar=None
        )
        writer.writeheader()
        writer.writerows(rows)
    known = [r for r in rows if "predicted_peak" in r]
    errors = [float(r["error_percent"]) for r in known]
    ranked = spearmanr([r["predicted_peak"] for r in known], [r["measured_peak"] for r in known]).statistic
    print(f"{len(known)} of {len(rows)} runs predicted; rank correlation {ranked:.2f}")
    print(f"error: median {statistics.median(errors):.1f} %, from {min(errors):.1f} % to {max(errors):.1f} %")


if __name__ == "__main__":
    main()
