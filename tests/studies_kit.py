"""Jobs for the tests of workers, which run in other processes and import them from here; and results of a study."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peftonomy.schema.results import Results, digest
from peftonomy.studies.own import save

ROOT = Path(__file__).parent.parent

def squared(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a number's square. A number with a file kills its worker until the file is there."""
    if "file" in given and not Path(given["file"]).exists():
        Path(given["file"]).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.2)
    return {"square": given["number"] ** 2}


def beside(base: Path) -> Path:
    """A knowledge base with the data of this one, and no study."""
    base.mkdir()
    for name in ("methods", "taxonomy", "backbones", "evidence", "golden", "site", "benchmarks"):
        (base / name).symlink_to(ROOT / name)
    (base / "studies").mkdir()
    return base


def published(base: Path) -> Path:
    """A knowledge base with invented results: two methods that cannot be told apart, a third, and the controls."""
    studies = beside(base) / "studies"
    shutil.copy(ROOT / "studies" / "tiny.yaml", studies)
    (studies / "tiny.jsonl").write_text("{}\n", encoding="utf-8")
    arms = (
        ("ia3", "ia3", None, 0.7, 1, 100), ("bitfit", "bitfit", None, 0.69, 1, 300),
        ("lora", "lora", None, 0.5, 2, 2048), ("lora@1000", "lora", None, 0.4, 2, 1000),
        ("frozen", None, "frozen", 0.2, 3, None), ("reversed", "lora", "reversed", 0.1, 4, 2048),
    )  # fmt: skip
    data = {
        "study": "tiny", "about": "A small model reads digits.", "model": "bert", "kind": "encoder", "task": "seq_cls",
        "metric": "accuracy", "commonest": 0.1, "steps": 100, "seeds": 2,
        "baselines": ["lora", "full_fine_tuning"],
        "runs": digest(studies / "tiny.jsonl", ""), "failures": {},
        "results": [
            {
                "arm": arm, "method": method, "control": control, "setting": {}, "hyperparameters": {}, "value": value,
                "low": value - 0.05, "high": value + 0.05, "seeds": [value, value], "group": group,
                "against": {} if arm == "lora" else {"lora": {"mean": value - 0.5, "low": -1.0, "high": 1.0, "p": 0.5}},
                "learning_rate": None if control == "frozen" else 0.01,
                "curve": [{"learning_rate": 0.01, "value": value}], "sensitivity": None, "step_seconds": 0.1,
                "peak_bytes": None if control else 2**20, "predicted_bytes": None if control else 2**20,
                "trained": trained, "stored": trained, "stored_bytes": None, "failed": 0,
            }
            for arm, method, control, value, group, trained in arms
        ],
    }  # fmt: skip
    save(Results.model_validate_json(json.dumps(data)), studies / "tiny.json")
    return base
