"""The page of published training runs, the charts of it, and the section on the pages of methods."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ..files.output import binary_text, bytes_text
from ..knowledge.base import Method
from ..schema.evidence import MEASURES, Metric, Run, Study
from ..studies.own import Measured
from . import _plot
from ._site import Site, View
from ._text import count

__all__ = ["charts", "hues", "measured_page", "of_method", "ours", "pareto"]

GIB = 2**30
CONTROLS = {"frozen": "Head alone", "reversed": "Updates with the wrong sign"}
"""The names of the controls of our studies."""
MOST_SET = 3
"""The number of arguments of a run that a table shows."""
QUIET = {"peft_type", "init_lora_weights", "init_weights", "task_type"}
"""Arguments that a table of runs does not show, because the method or the start says the same."""

AXES: dict[str, _plot.Axis] = {
    "trained": _plot.Axis("trained parameters", _plot.short, log=True),
    "peak_bytes": _plot.Axis("peak GPU memory, GiB", lambda v: f"{v:g}", unit=GIB),
    "seconds": _plot.Axis("training time, minutes", lambda v: f"{v:g}", log=True, unit=60),
    "file_bytes": _plot.Axis("size of the saved file", lambda v: bytes_text(int(v)), log=True),
}


def hues(site: Site) -> list[View]:
    """Return the legend of the colours: the top categories."""
    return [{"hue": site.hue(root.id), "name": root.name, "id": root.id} for root in site.kb.taxonomy.tree]


def measured_page(site: Site) -> str:
    """Return `measured.md`."""
    return site.page(
        "measured.md",
        "Measured quality",
        "Published training runs of many methods: quality against memory, parameters, time and size.",
        meta={"source": "evidence/studies.yaml", "door": "Methods", "hide": ["toc"]},
        studies=[_study(site, key, study) for key, study in site.kb.studies.items()],
        ours=list(ours(site)),
        n_runs=len(site.kb.evidence),
        hues=hues(site),
    )


def _study(site: Site, key: str, study: Study) -> View:
    runs = [run for run in site.kb.evidence if run.study == key]
    return {
        "id": key.replace("_", "-"), "name": study.name, "setup": study.setup, "limits": study.limits,
        "peak": study.peak or "", "source": site.cite(study.source), "model": study.model,
        "model_name": study.model_name, "task": study.task,
        "metrics": [
            {
                "id": name, "name": metric.name, "meaning": metric.meaning, "better": metric.better,
                "charts": list(charts(site, key, name)),
                "rows": [_row(site, r, metric) for r in _ranked(runs, name, metric)],
            }
            for name, metric in study.metrics.items()
        ],
    }  # fmt: skip


def charts(site: Site, study: str, metric: str, measures: Sequence[str] = tuple(MEASURES)) -> Iterator[View]:
    """Yield a chart of quality against each cost, with the line of the best runs."""
    found = site.kb.studies[study].metrics[metric]
    runs = [run for run in site.kb.evidence if (run.study, run.metric) == (study, metric)]
    for measure in measures:
        known = [run for run in runs if getattr(run, measure)]
        if len(known) < 2:
            continue
        front = pareto(known, measure, found)
        best = {id(run) for run in front}
        dots = {id(run): _dot(site, run, measure, found, id(run) in best) for run in known}
        share = found.unit == "share"
        y = _plot.Axis(f"{found.name}, %" if share else found.name, lambda v: f"{v:g}", unit=0.01 if share else 1.0)
        names = ", ".join(site.kb[run.method].name if run.method in site.kb else run.method for run in front)
        told = f"{found.name} against {MEASURES[measure]}, {len(known)} runs. On the line of the best: {names}."
        yield {
            "name": f"{found.name} against {MEASURES[measure]}", "measure": MEASURES[measure],
            "picture": _plot.scatter(list(dots.values()), AXES[measure], y, told, front=[dots[id(r)] for r in front]),
        }  # fmt: skip


def pareto(runs: Sequence[Run], measure: str, metric: Metric) -> list[Run]:
    """Return the runs that no other run beats in both quality and cost, from the cheapest."""
    sign = 1 if metric.better == "higher" else -1
    found: list[Run] = []
    for run in sorted(runs, key=lambda r: (getattr(r, measure), -sign * r.value)):
        if not found or sign * run.value > sign * found[-1].value:
            found.append(run)
    return found


def of_method(site: Site, method: Method) -> list[View]:
    """Return the runs of a method by study and metric, each with its rank."""
    found = []
    for key, study in site.kb.studies.items():
        for name, metric in study.metrics.items():
            every = [run for run in site.kb.evidence if (run.study, run.metric) == (key, name)]
            ranks = {run.run: i for i, run in enumerate(_ranked(every, name, metric), start=1)}
            own = [run for run in every if run.method == method.id]
            if own:
                found.append({
                    "id": key.replace("_", "-"), "study": study.name, "task": study.task, "setup": study.setup,
                    "limits": study.limits, "metric": metric.name, "n": len(every), "source": site.cite(study.source),
                    "rows": [_row(site, r, metric) | {"rank": ranks[r.run]} for r in _ranked(own, name, metric)],
                })  # fmt: skip
    return found


def ours(site: Site, method: Method | None = None) -> Iterator[View]:
    """Yield the studies that we ran, each with its finished arms; only those of a method, if one is given."""
    for study in site.own:
        shown = [a for a in study.arms if method is None or (a.control is None and a.method == method.id)]
        if shown:
            yield {
                "id": f"own-{study.name}".replace("_", "-"), "name": study.name, "about": study.about,
                "seeds": study.seeds, "steps": study.steps, "rows": [_own_row(site, one) for one in shown],
            }  # fmt: skip


def _own_row(site: Site, one: Measured) -> View:
    method = site.kb.get(one.method) if one.method and not one.control else None
    cells: dict[str, tuple[Any, Callable[[Any], str]]] = {
        "value": (one.value, _percent), "rate": (one.learning_rate, lambda v: f"{v:g}"),
        "trained": (one.trained, count),
        "seconds": (one.step_seconds, lambda v: f"{1000 * v:,.0f} ms"), "peak": (one.peak_bytes, binary_text),
        "predicted": (one.predicted_bytes, binary_text),
    }  # fmt: skip
    return {
        "id": method.id if method else "", "name": _arm_name(one, method),
        "hue": site.hue(method.category) if method else 0,
        "range": f"{_percent(min(one.values))} to {_percent(max(one.values))}",
        "cells": {
            name: {"text": "–" if value is None else shown(value), "sort": "" if value is None else value}
            for name, (value, shown) in cells.items()
        },
    }  # fmt: skip


def _arm_name(one: Measured, method: Method | None) -> str:
    if method is None:
        return CONTROLS.get(one.control or "", one.arm)
    _, _, budget = one.arm.partition("@")
    return f"{method.name}, at most {int(budget):,} parameters" if budget else method.name


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _ranked(runs: Sequence[Run], name: str, metric: Metric) -> list[Run]:
    sign = -1 if metric.better == "higher" else 1
    return sorted((r for r in runs if r.metric == name), key=lambda r: (sign * r.value, r.run))


def _row(site: Site, run: Run, metric: Metric) -> View:
    method = site.kb.get(run.method)
    cells: dict[str, tuple[Any, Callable[[Any], str]]] = {
        "value": (run.value, lambda v: _value(v, metric)), "trained": (run.trained, count),
        "peak": (run.peak_bytes, binary_text), "seconds": (run.seconds, lambda v: f"{v / 60:,.0f} min"),
        "file": (run.file_bytes, bytes_text),
    }  # fmt: skip
    return {
        "run": run.run, "id": method.id if method else "", "name": method.name if method else run.method,
        "hue": site.hue(method.category) if method else 0, "setting": _setting(run.setting), "note": run.note or "",
        "rate": f"{run.learning_rate:g}" if run.learning_rate else "–",
        **{
            name: {"text": "–" if value is None else shown(value), "sort": "" if value is None else value}
            for name, (value, shown) in cells.items()
        },
    }  # fmt: skip


def _setting(setting: Mapping[str, Any]) -> str:
    """Return the first arguments of a run in short form."""
    shown = {k: v for k, v in setting.items() if k not in QUIET and not isinstance(v, dict)}
    order = sorted(shown, key=lambda k: (k == "target_modules", k not in ("r", "num_virtual_tokens")))
    parts = [f"{k}={_plain(shown[k])}" for k in order[:MOST_SET]]
    return ", ".join(parts) + (", …" if len(order) > MOST_SET else "")


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value)) if len(value) < 4 else f"{len(value)} names"
    return value if isinstance(value, str) else json.dumps(value)


def _dot(site: Site, run: Run, measure: str, metric: Metric, best: bool) -> _plot.Dot:
    method = site.kb.get(run.method)
    name = method.name if method else run.method
    cost = getattr(run, measure)
    title = f"{name} ({run.run}): {_value(run.value, metric)}, {MEASURES[measure]} {_amount(measure, cost)}"
    href = f"methods/{method.id}.html" if method else None
    return _plot.Dot(cost, run.value, site.hue(method.category) if method else 0, title, name if best else "", href)


def _amount(measure: str, cost: float) -> str:
    if measure == "peak_bytes":
        return binary_text(int(cost))
    return {"trained": count(cost), "seconds": f"{cost:,.0f} s", "file_bytes": bytes_text(int(cost))}[measure]


def _value(value: float, metric: Metric) -> str:
    return f"{100 * value:.1f} %" if metric.unit == "share" else f"{value:.3f}"
