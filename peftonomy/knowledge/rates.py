"""The learning rates that are known for a method: what sources print, published runs, and our own studies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..costs.table import Table
from ..schema.rates import USERS

if TYPE_CHECKING:
    from ..catalogue.records import MethodRecord

__all__ = ["BY", "rates", "reach"]

BY = USERS | {"published": "published runs", "ours": "our own study"}
"""Who used a rate, in words. The last two are derived from the runs."""


def rates(method: MethodRecord) -> Table:
    """Return a row for each source: who used which rates, on which model and task, with the source."""
    return Table(list(_rates(method)), caption=f"Learning rates of {method.id}")


def reach(rows: Table) -> tuple[float, float] | None:
    """Return the smallest and the largest rate; None if none is known."""
    values = [value for row in rows for value in row["values"]]
    return (min(values), max(values)) if values else None


def _rates(method: MethodRecord) -> Iterator[dict[str, Any]]:
    kb = method.kb
    for one in method.entry.learning_rates:
        yield {
            "values": list(one.values), "by": one.by, "model": one.model, "task": one.task, "note": one.note or "",
            "source": one.source,
        }  # fmt: skip
    for key, study in kb.studies.items():
        runs = [run for run in kb.evidence if (run.study, run.method) == (key, method.id) and run.learning_rate]
        if runs:
            found = sorted({run.learning_rate for run in runs if run.learning_rate})
            yield {
                "values": found, "by": "published", "model": study.model_name, "task": study.task,
                "note": "", "source": study.source,
            }  # fmt: skip
    for own in kb.results.values():
        for arm in own.of(method.id):
            if arm.learning_rate is not None:
                tried = ", ".join(f"{rate.learning_rate:g}" for rate in arm.curve)
                yield {
                    "values": [arm.learning_rate], "by": "ours", "model": own.model, "task": own.about,
                    "note": f"the best of {tried}", "source": f"studies/{own.study}.yaml",
                }  # fmt: skip
