"""Other estimators of training memory beside ours: `python benchmarks/estimators.py`.

They are no dependencies of this project. In an environment of its own:

    pip install -e '.[torch]' accelerate==1.15.0 canifinetune==0.4.1 hf-vram-calc==1.0.9
    python benchmarks/estimators.py

All are asked by their Python interface, offline, about the same cases: every LoRA and full fine-tuning that was
simulated (`memory/simulated.tsv`) and the published runs of both (`evidence/`).
What each counts is said in README.md. Rows are written to memory/estimators.tsv; an estimator that does not speak of a
case has an empty cell. Errors are of what was simulated, or of what was measured.
"""

from __future__ import annotations

import csv
import json
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import published

import peftonomy
from peftonomy.memory.setting import Setting

ROOT = Path(__file__).parent
SIMULATED = ROOT / "memory" / "simulated.tsv"
TABLE = ROOT / "memory" / "estimators.tsv"
KB = peftonomy.load()
METHODS = {"lora": "lora", "full_fine_tuning": "full"}
SHORT = {"float32": "fp32", "bfloat16": "bf16", "mixed": "bf16"}
ESTIMATORS = ("peftonomy", "accelerate", "canifinetune", "hf_vram_calc")
ASKED = ("source", "method", "model", "batch", "seq", "dtype", "attention", "checkpointing", "rank", "targets")
COLUMNS = (*ASKED, "found", *ESTIMATORS, *(f"{name}_error_percent" for name in ESTIMATORS))
KEY = ("method", "model", "batch", "seq", "dtype", "attends", "checkpointing")
GPU = 80.0
"""GiB of the GPU that canifinetune wants to know; shares of it that it adds as reserves are taken off again."""


@dataclass(frozen=True)
class Case:
    """One step, and the bytes that were found. source: simulated, or the name of a run that was measured."""

    source: str
    method: str
    model: str
    setting: Setting
    rank: int
    targets: str
    task: str
    found: int

    def asked(self) -> dict[str, Any]:
        """The columns that say what is asked."""
        named = {name: getattr(self.setting, name) for name in ("batch", "seq", "dtype", "attention", "checkpointing")}
        own = {name: getattr(self, name) for name in ("source", "method", "model", "targets")}
        return own | named | {"rank": self.rank if self.method == "lora" else "", "found": self.found}


def cases() -> Iterator[Case]:
    """What was simulated, each case once, and what was measured."""
    seen = set()
    for row in published.read(SIMULATED):
        key = tuple(row[name] for name in KEY)
        if row["method"] not in METHODS or row.get("refused") or row["optimizer"] != "adamw" or row.get("targets"):
            continue
        if key not in seen:
            seen.add(key)
            again = row["checkpointing"] == "True"
            setting = Setting(int(row["batch"]), int(row["seq"]), row["dtype"], "adamw", again, row["attends"])
            yield Case("simulated", row["method"], row["model"], setting, 8, "", row["task"], int(row["peak"]))
    for run in published.runs(KB):
        if run.method in METHODS and run.peak_bytes is not None:
            dtype = "mixed" if run.method == "lora" else "bfloat16"
            targets = ",".join(run.setting.get("target_modules") or ())
            yield Case(
                run.run, run.method, published.MODEL, Setting(published.BATCH, published.SEQ, dtype),
                run.setting.get("r", 0), targets, "causal_lm", run.peak_bytes,
            )  # fmt: skip


# The estimators: bytes, or None where one does not speak of a case


def by_peftonomy(case: Case) -> int | None:
    if case.source != "simulated":
        found = {row["run"]: row["predicted_peak"] for row in published.read(published.TABLE)}
        return int(found[case.source])
    return KB[case.method].on(case.model, task=case.task).training.memory({}, case.setting).peak


def by_accelerate(case: Case) -> int | None:
    """Its answer for training with Adam, which is all that it knows: batches and methods are not asked for."""
    from accelerate.commands.estimate import estimate_training_usage

    if case.method != "full_fine_tuning":
        return None
    dtype = "float32" if case.setting.dtype == "float32" else "bfloat16"
    return int(max(estimate_training_usage(4 * KB.models[case.model].parameters, dtype).values()))


def by_canifinetune(case: Case) -> int | None:
    """Its total without the shares of the GPU that it adds for CUDA and for safety. It speaks of decoders."""
    from canifinetune.estimator.memory import EstimateRequest, estimate

    model, setting = KB.models[case.model], case.setting
    assert model.file is not None
    if model.family.kind != "decoder":
        return None
    scope = "all_linear" if case.targets and "gate_proj" in case.targets else "conservative"
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(
            json.dumps({**model.file.config, "model_type": model.family.model_type}), encoding="utf-8"
        )
        try:
            found = estimate(EstimateRequest(
                model_id=folder, method=METHODS[case.method], seq_len=setting.seq, micro_batch_size=setting.batch,
                base_dtype=SHORT[setting.dtype], lora_rank=case.rank or 8, lora_target_scope=scope,
                optimizer="adamw_torch", gradient_checkpointing=setting.checkpointing,
                attention_implementation=setting.attention, gpu_vram_gb=GPU, use_network=False,
            )).memory  # fmt: skip
        except ValueError:
            return None
    return int((found.total_estimated_gb - found.cuda_overhead_gb - found.safety_margin_gb) * 2**30)


def by_hf_vram_calc(case: Case) -> int | None:
    """Its training or LoRA memory; it has no batches there. Given the exact number of parameters."""
    from hf_vram_calc.calculator import VRAMCalculator
    from hf_vram_calc.config import ConfigManager

    calculator, parameters = VRAMCalculator(ConfigManager()), KB.models[case.model].parameters
    base = calculator.calculate_model_memory(parameters, SHORT[case.setting.dtype])
    if case.method == "lora":
        return int(calculator.calculate_lora_memory(base, parameters, case.rank) * 2**30)
    return int(calculator.calculate_training_memory(base) * 2**30)


ANSWERS = dict(zip(ESTIMATORS, (by_peftonomy, by_accelerate, by_canifinetune, by_hf_vram_calc), strict=True))


def compared() -> list[dict[str, Any]]:
    """One row a case."""
    rows = []
    for case in cases():
        row = case.asked()
        for name, answer in ANSWERS.items():
            found = answer(case)
            if found is not None:
                row |= {name: found, f"{name}_error_percent": f"{100 * (found / case.found - 1):.1f}"}
        rows.append(row)
    return rows


def main() -> None:
    rows = compared()
    with TABLE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    for kind in ("simulated", "measured"):
        for method in METHODS:
            of_kind = [r for r in rows if (r["source"] == "simulated") is (kind == "simulated")]
            chosen = [r for r in of_kind if r["method"] == method]
            for name in ESTIMATORS:
                errors = [abs(float(r[f"{name}_error_percent"])) for r in chosen if name in r]
                if errors:
                    middle, worst = statistics.median(errors), max(errors)
                    print(f"{kind} {method} {name}: {len(errors)} cases, median {middle:.1f} %, worst {worst:.1f} %")


if __name__ == "__main__":
    main()
