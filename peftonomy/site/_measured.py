"""The page of published training runs, the charts of it, and the section on the pages of methods."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ..files.output import binary_text, bytes_text
from ..knowledge.base import Method
from ..schema.evidence import MEASURES, Metric, Run, Study
from ..schema.results import MEASURES as MEASURED
from ..schema.results import Result, Results
from ..studies.own import arms
from . import _plot
from ._site import Site, View
from ._text import count

__all__ = [
    "beaten_by_none", "charts", "hues", "measured_page", "of_method", "ours", "own_charts", "pareto", "table",
    "tables",
]  # fmt: skip

GIB = 2**30
TABLES = "results/"
"""The folder of the tables of our own studies, in CSV."""
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
OWN_AXES: dict[str, _plot.Axis] = {
    "trained": AXES["trained"],
    "peak_bytes": _plot.Axis("peak memory of a step, MiB", lambda v: f"{v:g}", log=True, unit=2**20),
    "step_seconds": _plot.Axis("processor time of a step, ms", lambda v: f"{v:g}", unit=0.001),
}
OWN_TEXT: dict[str, Callable[[Any], str]] = {
    "trained": count, "peak_bytes": binary_text, "step_seconds": lambda v: f"{1000 * v:,.0f} ms",
}  # fmt: skip


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
    for study in site.kb.results.values():
        shown = study.results if method is None else study.of(method.id)
        if shown:
            controls = sum(1 for one in study.results if one.control is not None)
            yield {
                "id": f"own-{study.study}".replace("_", "-"), "name": study.study, "about": study.about,
                "seeds": study.seeds, "steps": study.steps, "metric": study.metric.capitalize(),
                "finished": len(study.results), "arms": arms(site.kb, study), "controls": controls,
                "groups": study.groups,
                "failures": study.failures, "bases": [_named(site, base) for base in study.baselines],
                "csv": f"{TABLES}{study.study}.csv",
                "rows": [_own_row(site, study, one) for one in shown],
                "charts": [] if method is not None else list(own_charts(site, study)),
            }  # fmt: skip


def _named(site: Site, method: str) -> str:
    return site.kb[method].name if method in site.kb else method


def own_charts(site: Site, study: Results) -> Iterator[View]:
    """Yield a chart of quality against each cost, with intervals and the line of the best arms."""
    frozen = next((one.value for one in study.results if one.control == "frozen"), None)
    y = _plot.Axis(f"{study.metric}, %", lambda v: f"{v:g}", unit=0.01)
    for measure, meaning in MEASURED.items():
        known = [one for one in study.results if one.control is None and getattr(one, measure)]
        if len(known) < 2:
            continue
        front = beaten_by_none(known, measure)
        best = {id(one) for one in front}
        dots = {id(one): _own_dot(site, one, measure, id(one) in best) for one in known}
        told = (
            f"{study.metric} against {meaning}, {len(known)} arms with 95 % intervals. On the line of the best means: "
            f"{', '.join(_arm_name(site, one) for one in front)}."
        )
        yield {
            "name": f"{study.metric.capitalize()} against {meaning}",
            "picture": _plot.scatter(
                list(dots.values()), OWN_AXES[measure], y, told, front=[dots[id(one)] for one in front],
                level=None if frozen is None else (frozen, CONTROLS["frozen"].lower()),
            ),
        }  # fmt: skip


def beaten_by_none(arms: Sequence[Result], measure: str) -> list[Result]:
    """Return the arms whose mean no other arm beats at the same cost or less, from the cheapest."""
    found: list[Result] = []
    for one in sorted(arms, key=lambda r: (getattr(r, measure), -r.value)):
        if not found or one.value > found[-1].value:
            found.append(one)
    return found


def _own_dot(site: Site, one: Result, measure: str, best: bool) -> _plot.Dot:
    method = site.kb.get(one.method) if one.method else None
    cost, name = getattr(one, measure), _arm_name(site, one)
    interval = f"{_percent(one.low)} to {_percent(one.high)}"
    title = f"{name}: {_percent(one.value)} ({interval}), {MEASURED[measure]} {OWN_TEXT[measure](cost)}"
    href = f"methods/{method.id}.html" if method else None
    hue = site.hue(method.category) if method else 0
    return _plot.Dot(cost, one.value, hue, title, name if best else "", href, (one.low, one.high))


def _own_row(site: Site, study: Results, one: Result) -> View:
    method = site.kb.get(one.method) if one.method and not one.control else None
    against = [one.against.get(base) for base in study.baselines]
    cells: list[tuple[Any, Callable[[Any], str]]] = [
        (one.value, _percent), (None if one.control else one.learning_rate, lambda v: f"{v:g}"),
        (one.trained, count), (one.step_seconds, OWN_TEXT["step_seconds"]), (one.peak_bytes, binary_text),
        (one.predicted_bytes, binary_text),
    ]  # fmt: skip
    return {
        "id": method.id if method else "", "name": _arm_name(site, one),
        "hue": site.hue(method.category) if method else "", "group": one.group,
        "interval": f"{_percent(one.low)} to {_percent(one.high)}",
        "against": [
            {"text": "–", "sort": ""} if d is None
            else {"text": f"{100 * d.mean:+.1f} (p {_chance(d.p)})".replace("-", "−", 1), "sort": d.mean}
            for d in against
        ],
        "cells": [
            {"text": "–" if value is None else shown(value), "sort": "" if value is None else value}
            for value, shown in cells
        ],
        "command": study.command(one),
    }  # fmt: skip


def _chance(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.2g}"


def _arm_name(site: Site, one: Result) -> str:
    method = site.kb.get(one.method) if one.method and not one.control else None
    if method is None:
        return CONTROLS.get(one.control or "", one.arm)
    _, _, budget = one.arm.partition("@")
    return f"{method.name}, at most {int(budget):,} parameters" if budget else method.name


def tables(site: Site) -> Iterator[tuple[str, str]]:
    """Yield the path and the content of a table of each of our studies."""
    yield from ((f"{TABLES}{key}.csv", table(study)) for key, study in site.kb.results.items() if study.results)


def table(study: Results) -> str:
    """Return the finished arms of a study as CSV."""
    text = io.StringIO()
    rows = [study.told(one) for one in study.results]
    seeds = [f"seed_{n}" for n in range(1, study.seeds + 1)]
    bases = [f"{base}_{part}" for base in study.baselines for part in ("difference", "p")]
    plain = [name for name in rows[0] if name not in ("setting", "hyperparameters", "seeds", "against", "curve")]
    written = csv.DictWriter(text, [*plain, *seeds, *bases], lineterminator="\n")
    written.writeheader()
    for one, row in zip(study.results, rows, strict=True):
        found = {name: row[name] for name in plain} | dict(zip(seeds, one.seeds, strict=True))
        for base, difference in one.against.items():
            found |= {f"{base}_difference": difference.mean, f"{base}_p": difference.p}
        written.writerow(found)
    return text.getvalue()


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
