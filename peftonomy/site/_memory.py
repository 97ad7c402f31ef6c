"""The page on memory: predictions against simulated steps, simulated against measured steps, and published runs.

All data come from the tables of `benchmarks/memory`. The predictions for simulated steps are stored there too; a test
computes them again.
"""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from markupsafe import Markup

from ..files.output import binary_text
from ..knowledge.base import data_root
from ..schema.evidence import Run
from . import _plot
from ._site import Site, View
from ._text import count

__all__ = ["CASE", "SIMULATED", "case", "length", "memory_page"]

SIMULATED, PREDICTED = ("simulated.tsv", "families.tsv"), "predicted.tsv"
FOLDER = Path("benchmarks", "memory")
CASE = (
    "method", "model", "batch", "seq", "dtype", "optimizer", "attends", "checkpointing", "task", "targets", "layers",
)  # fmt: skip
"""The columns that identify a simulated step."""
GIB = 2**30
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

Row = dict[str, str]


def memory_page(site: Site) -> str:
    """Return `memory.md`."""
    exceptions = _rows(site, "exceptions.tsv")
    compared, apart = _simulated(site, {r["value"]: r["reason"] for r in exceptions if r["table"] == "simulated"})
    runs = list(_published(site))
    found = [run for run in runs if run["predicted"]]
    steps = list(_measured(site))
    return site.page(
        "memory.md",
        "Memory",
        "The memory of a training step: predicted, simulated and measured, with every error.",
        meta={"door": "About", "hide": ["toc"]},
        compared=compared,
        apart=apart,
        errors=_summary([row["error"] for row in compared]),
        picture=_errors(compared),
        known=[
            row | {"name": site.kb[row["value"]].name if row["value"] in site.kb else ""}
            for row in exceptions
            if row["table"] == "truth"
        ],
        steps=steps,
        step_errors=_summary([row["error"] for row in steps]),
        runs=runs,
        run_errors=_summary([run["error"] for run in found]),
        n_found=len(found),
        ranks=_rank_correlation([[run[key] for run in found] for key in ("predicted", "peak")]),
        scatter=_scatter(found),
    )


def _rows(site: Site, name: str) -> list[Row]:
    """Return a table's rows; an empty list if the table does not exist."""
    folders = [root / FOLDER for root in (site.kb.root, data_root())]
    path = next((folder / name for folder in folders if (folder / name).is_file()), None)
    if path is None:
        return []
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return list(csv.DictReader(lines, delimiter="\t"))


def _summary(errors: Sequence[float]) -> View | None:
    """Return the median, worst, smallest and largest error in percent."""
    if not errors:
        return None
    sizes = [abs(e) for e in errors]
    return {
        "median": f"{statistics.median(sizes):.2g}", "worst": f"{max(sizes):.2g}", "least": _percent(min(errors)),
        "most": _percent(max(errors)), "middle": _percent(statistics.median(errors)), "n": len(errors),
    }  # fmt: skip


def _percent(value: float) -> str:
    """Return a percentage with its sign, such as `+0.12 %`; zero has no sign."""
    text = f"{abs(value):.2f}" if abs(value) < 10 else f"{abs(value):.1f}"
    return f"{'' if float(text) == 0 else '+' if value > 0 else '−'}{text} %"


# Predictions against simulated steps


def case(row: Row) -> tuple[str, ...]:
    """Return the values that identify a simulated step. A table may lack a column that is empty in all its rows."""
    return tuple(row.get(column) or "" for column in CASE)


def length(row: Mapping[str, str]) -> int | None:
    """Return the tokens of a simulated step's sequences; None for images and speech."""
    return int(row["seq"]) if row["seq"] else None


def _simulated(site: Site, reasons: dict[str, str]) -> tuple[list[View], list[View]]:
    """Return rows with their errors, the largest first, and the rows that are not compared, each with its reason."""
    compared: list[View] = []
    apart: list[View] = []
    stored = {case(row): int(row["predicted_peak"]) for row in _rows(site, PREDICTED)}
    for key, row in _distinct(site).items():
        shown = _shown(site, row)
        if row.get("refused"):
            apart.append(shown | {"reason": row["refused"].partition(": ")[2]})
            continue
        if key not in stored:
            apart.append(shown | {"reason": "no prediction is stored for it"})
            continue
        predicted, simulated = stored[key], int(row["peak"])
        compared.append(shown | {
            "predicted": binary_text(predicted), "simulated": binary_text(simulated), "peak": simulated,
            "bytes": f"{count(predicted)} predicted, {count(simulated)} simulated",
            "error": 100 * (predicted / simulated - 1), "percent": _percent(100 * (predicted / simulated - 1)),
            "note": reasons.get(f"{row['method']} {row['model']} {row['dtype']}", ""),
        })  # fmt: skip
    compared.sort(key=lambda r: -abs(r["error"]))
    return compared, apart


def _distinct(site: Site) -> dict[tuple[str, ...], Row]:
    """Return each simulated case once, for methods and models of this knowledge base."""
    found: dict[tuple[str, ...], Row] = {}
    for name in SIMULATED:
        for row in _rows(site, name):
            if row["method"] in site.kb and row["model"] in site.kb.models:
                found.setdefault(case(row), row)
    return found


def _shown(site: Site, row: Row) -> View:
    method = site.kb[row["method"]]
    how = [f"{row['batch']} × {row['seq']}" if row["seq"] else f"batch {row['batch']}", row["dtype"], row["attends"]]
    how += [row["optimizer"]] * (row["optimizer"] != "adamw") + ["checkpointing"] * (row["checkpointing"] == "True")
    how += [f"{row['layers']} layers" if row.get("layers") else "", row.get("targets", "")]
    return {
        "id": method.id, "method": method.name, "hue": site.hue(method.category),
        "model": site.kb.models[row["model"]].name, "how": ", ".join(h for h in how if h),
    }  # fmt: skip


# Simulated against measured steps


def _measured(site: Site) -> Iterator[View]:
    """Yield steps of small models on the CPU, the largest difference first."""
    rows = [r for r in _rows(site, "truth.tsv") if r["method"] in site.kb and r["profiled"]]
    for row in sorted(rows, key=lambda r: -abs(int(r["simulated"]) / int(r["profiled"]) - 1)):
        error = 100 * (int(row["simulated"]) / int(row["profiled"]) - 1)
        how = [row["model"], row["attention"], *(["checkpointing"] if row["checkpointing"] == "True" else [])]
        yield {
            "id": row["method"], "method": site.kb[row["method"]].name, "how": ", ".join(how), "inside": row["inside"],
            "simulated": count(int(row["simulated"])), "measured": count(int(row["profiled"])), "error": error,
            "percent": _percent(error),
        }  # fmt: skip


# Predictions against published runs


def _published(site: Site) -> Iterator[View]:
    """Yield the runs, starting with those with a prediction, by the size of its error."""
    rows = {(row["study"], row["run"]): row for row in _rows(site, "published.tsv")}
    found = [(run, rows[run.study, run.run]) for run in site.kb.evidence if (run.study, run.run) in rows]
    shown = [_compared(site, run, row) for run, row in found if run.peak_bytes]
    yield from sorted(shown, key=lambda view: (view["predicted"] == 0, -abs(view["error"])))


def _compared(site: Site, run: Run, row: Row) -> View:
    predicted, peak = int(row["predicted_peak"] or 0), run.peak_bytes or 0
    method = site.kb.get(run.method)
    error = 100 * (predicted / peak - 1) if predicted else 0.0
    return {
        "experiment": run.run, "id": method.id if method else "", "method": method.name if method else "",
        "hue": site.hue(method.category) if method else 0, "predicted": predicted, "peak": peak,
        "predicted_text": binary_text(predicted) if predicted else "–", "peak_text": binary_text(peak),
        "reserved": binary_text(run.p99_bytes) if run.p99_bytes else "–", "error": error,
        "percent": _percent(error) if predicted else "–", "note": row["note"],
    }  # fmt: skip


def _rank_correlation(pair: Sequence[Sequence[float]]) -> str:
    """Return Spearman's rank correlation, with average ranks for equal values; "" for too few."""
    ranks = [[sum(o < v for o in values) + (values.count(v) - 1) / 2 for v in values] for values in pair]
    return f"{statistics.correlation(*ranks):.2f}" if len(ranks[0]) > 2 else ""


# The plots


def _errors(rows: list[View]) -> Markup:
    """Return a histogram of the sizes of the errors, by powers of ten."""
    if not rows:
        return Markup("")
    sizes = [abs(row["error"]) for row in rows]
    powers = [math.floor(math.log10(size)) for size in sizes if size]
    bins = [("0", "exact", sum(size == 0 for size in sizes))] if 0.0 in sizes else []
    for power in range(min(powers, default=0), max(powers, default=-1) + 1):
        low, high = f"{10.0**power:.{max(0, -power)}f}", f"{10.0 ** (power + 1):.{max(0, -power - 1)}f}"
        bins.append((f"10{str(power).translate(RAISED)}", f"{low} % to {high} %", powers.count(power)))
    told = f"{len(rows)} simulated steps by the size of the error: " + ", ".join(f"{n} {word}" for _, word, n in bins)
    bars = [(label, float(n), f"{n} steps: {word}") for label, word, n in bins]
    return _plot.bars(bars, "size of the error in percent, from", "steps", told, height=200)


def _scatter(runs: list[View]) -> Markup:
    """Return a plot of published runs by measured and predicted peak, in GiB. On the line both are equal."""
    if len(runs) < 2:
        return Markup("")
    dots = [
        _plot.Dot(
            run["peak"], run["predicted"], run["hue"],
            f"{run['experiment']}: {run['peak_text']} measured, {run['predicted_text']} predicted",
        )
        for run in runs
    ]  # fmt: skip
    x, y = (_plot.Axis(f"{word} peak, GiB", lambda v: f"{v:g}", unit=GIB) for word in ("measured", "predicted"))
    told = f"{len(runs)} published runs: measured peak to the right, predicted peak upwards."
    return _plot.scatter(dots, x, y, told, diagonal=True)
