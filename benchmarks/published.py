"""Published training runs against predictions of memory: `python -m benchmarks.published`.

The runs are those of peft's method comparison (`evidence/hf_peft_metamathqa.jsonl`): Llama-3.2-3B, bfloat16, four
sequences of at most 768 tokens, one GPU. Predicted is a training step with four sequences of 768 tokens, adapters in
float32 under autocast. Their peak is that of the whole run, evaluation with generation included, and few batches are as
long as that. So compare the order and the differences between methods, not the numbers. The predictions are written to
memory/published.tsv, one row a run; a run whose method does not declare what its training keeps has the reason in place
of a number.
"""

from __future__ import annotations

import csv
import statistics
from pathlib import Path
from typing import Any

from scipy.stats import spearmanr

import peftonomy
from peftonomy import PeftonomyError
from peftonomy.memory.answer import Training
from peftonomy.memory.setting import Memory, Setting
from peftonomy.schema.evidence import Run

ROOT = Path(__file__).parent
TABLE = ROOT / "memory" / "published.tsv"
STUDY, MODEL, BATCH, SEQ = "hf_peft_metamathqa", "llama_3_2_3b", 4, 768
OPTIMIZERS = {"lora-fa": "lora_fa"}
"""Methods that an optimiser makes of a configuration."""
HALF = {"ADAPTION_PROMPT", "LN_TUNING", "OSF"}
"""Types whose tensors keep the model's bfloat16; peft casts those of the others to float32."""
COLUMNS = ("study", "run", "predicted_peak", "note")


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a table."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))


def runs(kb: peftonomy.KnowledgeBase) -> list[Run]:
    """Return the runs of the comparison."""
    return [run for run in kb.evidence if run.study == STUDY]


def predicted(kb: peftonomy.KnowledgeBase, run: Run) -> Memory:
    """Return the memory of a step of a run. Raises PeftonomyError."""
    kind = run.setting.get("peft_type")
    setting = Setting(BATCH, SEQ, dtype="bfloat16" if kind is None or kind in HALF else "mixed")
    if kind is None:
        return kb[run.method].on(MODEL).training.memory({}, setting)
    adapter = kb.adapter({**run.setting, "task_type": "CAUSAL_LM"}, MODEL, method=OPTIMIZERS.get(run.optimizer or ""))
    return Training(kb, adapter.plan).memory(adapter.hyperparameters, setting)


def compared(kb: peftonomy.KnowledgeBase) -> list[dict[str, Any]]:
    """Return one row for each run."""
    rows = []
    for run in runs(kb):
        row: dict[str, Any] = {"study": run.study, "run": run.run}
        try:
            row["predicted_peak"] = predicted(kb, run).peak
        except PeftonomyError as error:
            row["note"] = str(error)
        rows.append(row)
    return rows


def main() -> None:
    kb = peftonomy.load()
    rows = compared(kb)
    TABLE.parent.mkdir(exist_ok=True)
    with TABLE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(
            file, COLUMNS, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE, quotechar=None
        )
        writer.writeheader()
        writer.writerows(rows)
    peaks = {run.run: run.peak_bytes for run in runs(kb) if run.peak_bytes}
    known = [(r["predicted_peak"], peaks[r["run"]]) for r in rows if "predicted_peak" in r and r["run"] in peaks]
    errors = [100 * (found / measured - 1) for found, measured in known]
    ranked = spearmanr(*zip(*known, strict=True)).statistic
    print(f"{len(known)} of {len(rows)} runs predicted; rank correlation {ranked:.2f}")
    print(f"error: median {statistics.median(errors):.1f} %, from {min(errors):.1f} % to {max(errors):.1f} %")


if __name__ == "__main__":
    main()
