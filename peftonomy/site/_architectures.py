"""The page that shows which methods fit which architectures, and which libraries have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby

from markupsafe import Markup

from ..backbones.backbone import Backbone
from ..costs.plan import Plan
from ..errors import UsageError
from ..knowledge.base import Method
from ._site import Site, View
from ._svg import element

__all__ = ["architectures_page"]

ROW, NAME, LIBRARY, HEAD = 11.0, 112.0, 12.0, 96.0
"""The height of a row, the width of the names, the width of a library's column, and the height of the heads."""
WIDTH = 760.0


def architectures_page(site: Site) -> str:
    """Return `architectures.md`."""
    models = _smallest(site)
    libraries = [key for key in site.kb.libraries if any(_in_library(m, key) for m in site.kb.values())]
    rows: list[View] = []
    for group in site.groups():
        for listed in group["methods"]:
            method = site.kb[listed["id"]]
            reasons = {family: reason for family, model in models.items() if (reason := _reason(method, model))}
            held = [key for key in libraries if _in_library(method, key)]
            rows.append({
                "id": method.id, "name": method.name, "hue": group["hue"], "libraries": [site.library(k) for k in held],
                "held": held, "reasons": reasons, "n": len(models) - len(reasons),
                "missing": [site.kb.families[family].name for family in reasons],
                "reason": next(iter(reasons.values()), ""),
            })  # fmt: skip
    return site.page(
        "architectures.md",
        "Methods by architecture",
        "Which methods fit which architectures, and which libraries have them.",
        meta={"door": "Methods", "hide": ["toc"]},
        picture=_picture(site, rows, list(models), libraries),
        rows=rows,
        n_families=len(models),
        libraries=[site.library(key) for key in libraries],
    )


def _smallest(site: Site) -> dict[str, Backbone]:
    """Return the smallest model of each family that has one."""
    found: dict[str, Backbone] = {}
    for model in sorted(site.kb.models.values(), key=lambda m: (m.parameters, m.id)):
        found.setdefault(model.family.model_type, model)
    return {key: found[key] for key in site.kb.families if key in found}


def _in_library(method: Method, library: str) -> bool:
    there = method.entry.implementations.get(library)
    return there is not None and bool(there.symbol or there.type)


def _reason(method: Method, model: Backbone) -> str:
    """Return the reason why a method does not fit a model at its defaults; "" if it fits."""
    try:
        plan = Plan(method.parts, model.inventory())
        plan.rows(plan.values({}))
    except UsageError as error:
        return str(error)
    return ""


def _picture(site: Site, rows: Sequence[View], families: Sequence[str], libraries: Sequence[str]) -> Markup:
    left = NAME + LIBRARY * len(libraries) + 8
    wide = (WIDTH - left) / max(1, len(families))
    parts = list[Markup]()
    heads = [(NAME + LIBRARY * i, LIBRARY, site.library(key)) for i, key in enumerate(libraries)]
    heads += [(left + wide * i, wide, site.kb.families[key].name) for i, key in enumerate(families)]
    for x, width, name in heads:
        at = f"translate({x + width / 2 + 3:.1f} {HEAD - 4}) rotate(-60)"
        parts.append(element("text", name, class_="head", transform=at))
    for i, row in enumerate(rows):
        y = HEAD + ROW * i
        name = element("text", row["name"], class_="name", x=NAME - 6, y=y + ROW - 2.5)
        parts.append(element("a", name, href=f"methods/{row['id']}.html"))
        for j, key in enumerate(libraries):
            if key in row["held"]:
                parts.append(element(
                    "rect", element("title", f"{row['name']} is in {site.library(key)}"), class_="library",
                    x=NAME + LIBRARY * j + 1, y=y + 1, width=LIBRARY - 2, height=ROW - 2,
                ))  # fmt: skip
        parts += _cells(site, row, families, left, wide, y)
    height = HEAD + ROW * len(rows) + 2
    told = f"{len(rows)} methods by {len(libraries)} libraries and {len(families)} architectures, as in the table."
    return element(
        "svg", *parts, xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {WIDTH:g} {height:g}", role="group",
        aria_label=told, class_="pf-heat",
    )  # fmt: skip


def _cells(
    site: Site, row: Mapping[str, object], families: Sequence[str], left: float, wide: float, y: float
) -> list[Markup]:
    """Return the cells of one row; equal neighbours are one rectangle."""
    reasons, held = row["reasons"], row["held"]
    assert isinstance(reasons, dict)
    assert isinstance(held, list)
    level = min(2, len(held))
    found, i = list[Markup](), 0
    for fits, run in groupby(families, key=lambda key: key not in reasons):
        keys = list(run)
        if fits:
            found.append(element(
                "rect", class_=f"heat-{level}", x=f"{left + wide * i:.1f}", y=y + 0.5, width=f"{wide * len(keys):.1f}",
                height=ROW - 1,
            ))  # fmt: skip
        else:
            titles = "; ".join(f"{site.kb.families[key].name}: {reasons[key]}" for key in keys)
            found.append(element(
                "rect", element("title", titles), class_="none", x=f"{left + wide * i:.1f}", y=y + 0.5,
                width=f"{wide * len(keys):.1f}", height=ROW - 1,
            ))  # fmt: skip
        i += len(keys)
    return found
