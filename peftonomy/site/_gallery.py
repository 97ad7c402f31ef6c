"""Pictures of all methods together: trained against stored, additions by year, and surveys as a flow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from ..schema.taxonomy import SurveyNode
from . import _finder, _measured, _plot
from ._site import Site, View
from ._svg import element

__all__ = ["additions", "flow", "home", "ledgers"]

BYTES = 4
"""The bytes of a float32 value."""
MOST_NAMED = 8
"""The number of methods with a name in the picture of ledgers."""
WIDE, NODE, LINE, SPACE = 360.0, 8.0, 12.0, 7.0
"""Sizes of the flow: its width, the width of a class, the height for a method, and the space between classes."""
LABEL = 118.0
"""The width of the names on each side of the flow."""


def home(site: Site) -> list[View]:
    """Return the pictures of the first page: each with a caption and the page with its table."""
    found: list[View] = []
    sizes = {key: sum(run.study == key for run in site.kb.evidence) for key in site.kb.studies}
    if sizes:
        study = max(sizes, key=lambda key: sizes[key])
        known = site.kb.studies[study]
        for chart in _measured.charts(site, study, next(iter(known.metrics)), ["peak_bytes", "trained"]):
            caption = f"{chart['name']}: {sizes[study]} published runs on {known.model_name}. {known.limits}"
            found.append({"picture": chart["picture"], "caption": caption, "href": "measured.html"})
    model = site.examples[0]
    caption = (
        f"Trained parameters against the size of one task's checkpoint, on {site.kb.models[model].name} at the "
        "defaults. Methods on the line store what they train."
    )
    found.append({"picture": ledgers(site, model), "caption": caption, "href": "methods/index.html"})
    added = additions(site)
    if added["picture"]:
        found.append({"picture": added["picture"], "caption": added["caption"], "href": "survey.html#new"})
    return found


def ledgers(site: Site, model: str) -> Markup:
    """Return all methods by trained and stored entries on a model, on logarithmic axes."""
    dots = []
    for method in site.kb.values():
        row = site.cost(method, model)
        if row["problem"] or not row["exact"] or not row["bytes"]:
            continue
        title = f"{method.name}: {row['trained']} trained, {row['stored']} stored"
        dots.append(_plot.Dot(
            row["exact"], row["bytes"] / BYTES, site.hue(method.category), title, "", f"methods/{method.id}.html"
        ))  # fmt: skip
    off = sorted(range(len(dots)), key=lambda i: -abs(_ratio(dots[i])))[:MOST_NAMED]
    named = [_labelled(dot) if i in off else dot for i, dot in enumerate(dots)]
    told = f"{len(dots)} methods by trained parameters and by the size of a checkpoint."
    return _plot.scatter(
        named, _plot.Axis("trained parameters", _plot.short, log=True),
        _plot.Axis("stored, in float32 values", _plot.short, log=True), told, diagonal=True,
    )  # fmt: skip


def _ratio(dot: _plot.Dot) -> float:
    ratio = dot.y / dot.x
    return ratio if ratio >= 1 else 1 / ratio


def _labelled(dot: _plot.Dot) -> _plot.Dot:
    return _plot.Dot(dot.x, dot.y, dot.hue, dot.title, dot.title.partition(":")[0], dot.href)


def additions(site: Site) -> View:
    """Return the methods that the survey's tree lacks: by year, class and mechanism."""
    inside = {
        key for node in site.kb.taxonomy.categories.values() if node.source.partition("#")[0] == site.survey
        for key in node.methods
    }  # fmt: skip
    new = sorted((m for m in site.kb.values() if m.id not in inside), key=lambda m: (m.year, m.name.lower()))
    since = site.kb.references[site.survey].year if site.survey in site.kb.references else ""
    later = [m for m in new if since and m.year > int(since)]
    years: dict[int, list[View]] = {}
    for m in new:
        years.setdefault(m.year, []).append({"id": m.id, "name": m.name, "hue": site.hue(m.category)})
    rows = [
        (str(year), float(len(years.get(year, []))), f"{len(years.get(year, []))} added from {year}")
        for year in (range(min(years), max(years) + 1) if years else ())
    ]
    told = ", ".join(title for _, _, title in rows)
    return {
        "n": len(new), "since": since, "later": len(later), "years": sorted(years.items(), reverse=True),
        "classes": _grouped(site, [(m.id, m.category) for m in new]),
        "mechanisms": _mechanisms(site, [m.id for m in new]),
        "caption": f"{len(new)} methods that the survey's tree lacks, by year; {len(later)} are later than the survey.",
        "picture": _plot.bars(rows, "year of the paper", "methods", told, height=190) if rows else Markup(""),
    }  # fmt: skip


def _grouped(site: Site, placed: Sequence[tuple[str, str]]) -> list[View]:
    found = []
    for category in site.kb.taxonomy.categories:
        inside = [key for key, where in placed if where == category]
        if inside:
            name = " › ".join(n for n, _ in site.trail(category)[1:])
            methods = [{"id": key, "name": site.kb[key].name} for key in inside]
            found.append({"id": category, "name": name, "hue": site.hue(category), "methods": methods})
    return found


def _mechanisms(site: Site, methods: Sequence[str]) -> list[View]:
    """Return the number of methods for each value of each facet, with the methods."""
    known = {key: _finder.words(site.kb[key]) for key in methods}
    found = list[View]()
    for question in _finder.questions(site):
        values = list[View]()
        for value, name in question.values.items():
            inside = [key for key in methods if value in known[key].get(question.id, [])]
            if inside:
                href = f"methods/index.html?{question.id}={value}"
                values.append({"name": name, "n": len(inside), "href": href})
        if len(values) > 1:
            found.append({"name": question.name, "values": sorted(values, key=lambda v: -v["n"])})
    return found


def flow(site: Site, survey: str) -> Markup:
    """Return the classes of another survey on the left, our top categories on the right, and bands of methods."""
    tree = site.kb.taxonomy.surveys[survey].tree
    left = {node.id: node.name for node in tree}
    right = {root.id: root.name for root in site.kb.taxonomy.tree}
    bands: dict[tuple[str, str], list[str]] = {}
    for node in tree:
        for key in dict.fromkeys(k for k in _methods(node) if k in site.kb):
            root = site.kb[key].category.partition(".")[0]
            bands.setdefault((node.id, root), []).append(site.kb[key].name)
    if not bands:
        return Markup("")
    starts = _stacked([a for a in left if any(pair[0] == a for pair in bands)], bands, 0)
    ends = _stacked([b for b in right if any(pair[1] == b for pair in bands)], bands, 1)
    height = max(top + size for side in (starts, ends) for top, size in side.values()) + 4
    parts = list[Markup]()
    used = {("l", a): y for a, (y, _) in starts.items()} | {("r", b): y for b, (y, _) in ends.items()}
    x1, x2 = LABEL + NODE, WIDE - LABEL - NODE
    for a in starts:
        for b in ends:
            names = bands.get((a, b))
            if not names:
                continue
            thick = LINE * len(names)
            y1, y2 = used["l", a] + thick / 2, used["r", b] + thick / 2
            used["l", a] += thick
            used["r", b] += thick
            middle = (x1 + x2) / 2
            d = f"M{x1:g} {y1:g}C{middle:g} {y1:g} {middle:g} {y2:g} {x2:g} {y2:g}"
            title = f"{left[a]} here in {right[b]}: {', '.join(names)}"
            parts.append(element(
                "path", element("title", title), class_=f"band hue-{site.hue(b)}", d=d, stroke_width=thick
            ))  # fmt: skip
    for side, names_, x in ((starts, left, LABEL), (ends, right, WIDE - LABEL - NODE)):
        for key, (top, size) in side.items():
            hue = f" hue-{site.hue(key)}" if side is ends else ""
            parts.append(element("rect", class_=f"node{hue}", x=x, y=f"{top:g}", width=NODE, height=f"{size:g}"))
            at, anchor = (x - 5, "end") if side is starts else (x + NODE + 5, "start")
            lines = _wrapped(names_[key], 19)
            for i, text in enumerate(lines):
                y = top + size / 2 + 3.5 + 11 * (i - (len(lines) - 1) / 2)
                parts.append(element("text", text, class_=f"side {anchor}", x=at, y=f"{y:g}"))
    told = "; ".join(f"{left[a]} to {right[b]}: {len(n)}" for (a, b), n in bands.items())
    return element(
        "svg", *parts, xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {WIDE:g} {height:g}", role="img",
        aria_label=f"Classes of the survey and our categories. {told}", class_="pf-chart pf-flow",
    )  # fmt: skip


def _methods(node: SurveyNode) -> list[str]:
    return [*node.methods, *(key for child in node.children for key in _methods(child))]


def _stacked(
    keys: Sequence[str], bands: Mapping[tuple[str, str], Sequence[Any]], side: int
) -> dict[str, tuple[float, float]]:
    """Return the top and the height of each class."""
    found, y = dict[str, tuple[float, float]](), 4.0
    for key in keys:
        size = LINE * sum(len(names) for pair, names in bands.items() if pair[side] == key)
        room = max(size, 11.0 * len(_wrapped(key, 19)))
        found[key] = (y + (room - size) / 2, size)
        y += room + SPACE
    return found


def _wrapped(text: str, most: int) -> list[str]:
    """Return a name in at most two lines."""
    words, lines = text.split(), [""]
    for word in words:
        longer = f"{lines[-1]} {word}".strip()
        if len(longer) <= most or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    if len(lines) > 2:
        lines = [lines[0], " ".join(lines[1:])]
        lines[1] = lines[1] if len(lines[1]) <= most else lines[1][: most - 1] + "…"
    return lines

