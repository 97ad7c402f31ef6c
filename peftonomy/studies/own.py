"""Save the report of a study beside its runs, for the knowledge base to read: see `schema.results`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from ..catalogue.records import STUDIES
from ..files.documents import Document
from ..files.output import write_atomically
from ..schema.base import validated
from ..schema.design import load_design
from ..schema.results import Results, digest
from .jobs import Study

if TYPE_CHECKING:
    from ..knowledge.base import KnowledgeBase
    from .report import Report

__all__ = ["arms", "results", "save"]


def arms(kb: KnowledgeBase, found: Results) -> int:
    """Return the number of arms of a study that can run with the methods of today, controls included."""
    known: dict[str, int] = kb.memo.setdefault("arms", {})
    if found.study not in known:
        path = kb.root / STUDIES / f"{found.study}.yaml"
        # A revision is given so that the examples are not read; counts do not depend on it.
        known[found.study] = len(Study(kb, load_design(path), path.parent, (), found.runs).arms)
    return known[found.study]


def results(study: Study, report: Report, runs: Path) -> Results:
    """Return the report as a record. runs: the file of runs, whose digest it holds."""
    design, rows = study.design, []
    model = design.model
    data = {name: value for name, value in report.to_dict().items() if name not in ("refused", "unfinished")}
    for row in data.pop("rows"):
        row["curve"] = [{"learning_rate": rate, "value": value} for rate, value in row["curve"].items()]
        rows.append(row)
    data |= {
        "model": model.package or model.checkpoint or str((model.config or {}).get("model_type")),
        "kind": study.kb.backbone(study.backbone).family.kind, "task": study.where["task"],
        "steps": design.steps, "seeds": len(design.seeds),
        "baselines": design.baselines, "runs": digest(runs, str(runs)), "results": rows,
    }  # fmt: skip
    return validated(Results, Document(str(runs), json.loads(json.dumps(data, allow_nan=False)), {(): 0}))


def save(found: Results, path: Path) -> None:
    """Write a record, one line for each arm."""
    data = found.model_dump(mode="json")
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in data.pop("results"))
    head = json.dumps(data, ensure_ascii=False, indent=1).removesuffix("\n}")
    write_atomically({path: f'{head},\n "results": [\n{lines}\n]}}\n'})
