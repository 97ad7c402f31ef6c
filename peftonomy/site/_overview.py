"""Overview pages that arrange all methods by one property: a survey, other surveys, years, facets, saved queries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from ..knowledge.base import Method
from ..schema.taxonomy import CategoryNode, SurveyNode
from . import _finder, _gallery, _lineage, _surveys
from ._site import Site, View
from ._text import count

__all__ = ["finder", "list_page", "overview_pages"]

WIDE = {"hide": ["toc"]}
AGREEMENT = {"rounded": "rounds to it", "truncated": "cut off, not rounded", "differs": "another number"}
Known = dict[str, dict[str, list[str]]]
"""Method -> facet -> its values."""


def overview_pages(site: Site) -> Iterator[tuple[str, str]]:
    """Yield the pages with their paths."""
    if site.survey:
        yield "survey.md", _survey(site)
    yield "crosswalk.md", _crosswalk(site)
    yield "timeline.md", _timeline(site)
    yield "matrix.md", _matrix(site)
    yield "lists/index.md", _lists(site)
    for key in site.kb.taxonomy.lists:
        yield f"lists/{key}.md", list_page(site, key)


# One survey: its tree and its experiments


def _survey(site: Site) -> str:
    rows = _surveys.experiments(site.kb, site.survey)
    asked = site.settings.survey
    models = {key: task for key, task in asked.models.items() if key in site.kb.models}
    reference = site.reference(site.survey)
    nodes = [node for node in site.kb.taxonomy.tree if _surveyed(site, node)]
    return site.page(
        "survey.md",
        "The survey",
        f"The tree of {reference['title']}, and its experiments recomputed.",
        meta={"source": "taxonomy/categories.yaml", "door": "Survey", **WIDE},
        reference=reference,
        citation=site.cite(site.survey),
        tree=[_branch(site, node) for node in nodes],
        totals=_totals(site, nodes),
        added=_gallery.additions(site),
        models=[{"id": key, "name": site.kb.models[key].name, "task": task} for key, task in models.items()],
        counted=[_counted(site, site.kb[key], models) for key in asked.methods if key in site.kb],
        printed=[_shown(site, row) for row in rows],
    )


def _counted(site: Site, method: Method, models: Iterable[str]) -> View:
    """Return the trained count of a method on each model at its defaults, with these defaults."""
    setting = _set({name: spec.default for name, spec in method.entry.hyperparameters.items()})
    return {
        "id": method.id, "name": method.name, "setting": ", ".join(setting),
        "costs": [site.cost(method, model) for model in models],
    }  # fmt: skip


def _surveyed(site: Site, node: CategoryNode) -> bool:
    return node.source.partition("#")[0] == site.survey


def _branch(site: Site, node: CategoryNode) -> View:
    """Return a class of the survey's tree with its methods."""
    leaves: list[View] = [
        {"id": m.id, "name": m.name, "year": m.year}
        for m in site.in_category(node.id)
        if m.id in node.methods
    ]
    leaves.sort(key=lambda leaf: (leaf["year"], leaf["id"]))
    return {
        "id": node.id, "name": node.name, "definition": node.definition, "hue": site.hue(node.id), "leaves": leaves,
        "children": [_branch(site, child) for child in node.children if _surveyed(site, child)],
    }  # fmt: skip


def _totals(site: Site, nodes: list[CategoryNode]) -> View:
    """Return the numbers of methods and classes in the survey, and of methods that we added."""
    inside = [n for root in nodes for n in root.walk() if _surveyed(site, n)]
    present = {key for n in inside for key in n.methods if key in site.kb}
    beyond = [m for m in site.kb.values() if m.id not in present]
    return {
        "present": len(present), "classes": len(inside), "beyond": len(beyond),
    }  # fmt: skip


def _shown(site: Site, row: View) -> View:
    """Return a row of the experiments in display form."""
    setting = _set(row["set"])
    setting += [", ".join(row["targets"])] if row["targets"] else []
    if row["task"]:
        setting.append(f"task {row['task']}" + (f", {row['num_labels']} labels" if row["num_labels"] else ""))
    parts = [
        {
            "times": p["times"], "id": p["method"], "name": site.kb[p["method"]].name,
            "setting": ", ".join([*_set(p["set"]), *p["targets"]]),
        }
        for p in row["parts"]
    ]  # fmt: skip
    return row | {
        "setting": setting, "parts": parts, "computed": count(row["computed"]), "alone": count(row["method_alone"]),
        "difference": _signed(row["difference"]), "agreement": AGREEMENT.get(row["agreement"], ""),
        "model_name": _model(site, row["model"]), "cite": site.cite(row["source"]),
        "same": row["method_alone"] == row["computed"],
    }  # fmt: skip


def _model(site: Site, key: str) -> str:
    """Return a model's name, or its id if the knowledge base lacks it."""
    return site.kb.models[key].name if key in site.kb.models else key


def _set(values: View) -> list[str]:
    return [f"{n} = {str(v).lower() if isinstance(v, bool) else v}" for n, v in values.items()]


def _signed(value: float | None) -> str:
    return "–" if value is None else "0" if value == 0 else f"{'+' if value > 0 else '−'}{count(abs(value))}"


# Other surveys beside it


def _crosswalk(site: Site) -> str:
    surveys = site.kb.taxonomy.surveys
    rows = [_crossed(site, row) for row in _surveys.crosswalk(site.kb)]
    return site.page(
        "crosswalk.md",
        "Crosswalk of surveys",
        "The class of each method in each survey, and the disagreements.",
        meta={"source": "taxonomy/surveys.yaml", "door": "Taxonomy", **WIDE},
        surveys=[
            {
                "id": key, "name": s.name, "cite": site.cite(s.source),
                "note": s.note or "", "tree": [_class(site, node) for node in s.tree], "flow": _gallery.flow(site, key),
            }
            for key, s in surveys.items()
        ],
        rows=rows,
        n_differ=sum(r["differs"] for r in rows),
        n_filed=sum(len(c) for r in rows for c in r["cells"]),
    )  # fmt: skip


def _crossed(site: Site, row: View) -> View:
    by_survey: dict[str, list[View]] = {key: [] for key in site.kb.taxonomy.surveys}
    for place in row["filed"]:
        by_survey[place["survey"]].append(place)
    ours = [name for name, _ in site.trail(row["category"])[1:]]
    return row | {
        "hue": site.hue(row["category"]), "ours": ours, "cells": list(by_survey.values()),
        "differs": any(p["stands"] == _surveys.DIFFERS for p in row["filed"]),
    }  # fmt: skip


def _class(site: Site, node: SurveyNode) -> View:
    """Return a class of another survey's tree."""
    methods = [{"id": key, "name": site.kb[key].name} for key in node.methods if key in site.kb]
    return {"name": node.name, "methods": methods, "children": [_class(site, child) for child in node.children]}


# Years


def _timeline(site: Site) -> str:
    lanes = [
        _lineage.Lane(root.name, site.hue(root.id), f"categories/{root.id}.html", _spots(site, root))
        for root in site.kb.taxonomy.tree
    ]
    years: dict[int, list[_lineage.Spot]] = {}
    for lane in lanes:
        for spot in lane.spots:
            years.setdefault(spot.year, []).append(spot)
    return site.page(
        "timeline.md",
        "Timeline",
        "All methods by the year of their paper, in a lane for each root of the taxonomy.",
        meta={"door": "Taxonomy", **WIDE},
        picture=_lineage.lanes(lanes, _links(site)),
        years=sorted(years.items()),
    )


def _links(site: Site) -> list[_lineage.Link]:
    """Return the relations that count as descent."""
    types = site.kb.taxonomy.relations
    return [
        _lineage.Link(m.id, r.target, types[r.type].name, r.note)
        for m in site.kb.values()
        for r in m.entry.relations
        if types[r.type].lineage and r.target in site.kb
    ]


def _spots(site: Site, root: CategoryNode) -> list[_lineage.Spot]:
    inside = {node.id for node in root.walk()}
    found = [
        _lineage.Spot(m.id, m.name, m.year, site.hue(m.category), f"methods/{m.id}.html")
        for m in site.kb.values()
        if m.category in inside
    ]
    return sorted(found, key=lambda s: (s.year, s.name.lower(), s.id))


# Facets by category


def _matrix(site: Site) -> str:
    known = {m.id: _finder.words(m) for m in site.kb.values()}
    leaves = [k for k in site.kb.taxonomy.categories if any(m.category == k for m in site.kb.values())]
    matrices = [_one_matrix(site, q, leaves, known) for q in _finder.questions(site)]
    return site.page(
        "matrix.md",
        "Matrix",
        "Facets by category with counts: known combinations and those without a known method.",
        meta={"source": "taxonomy/facets.yaml", "door": "Taxonomy"},
        matrices=matrices,
    )


def _one_matrix(site: Site, question: _finder.Question, leaves: list[str], known: Known) -> View:
    held = {v for k in known.values() for v in k.get(question.id, [])}
    values = [v for v in question.values if v in held or question.meaning]
    rows: list[View] = []
    for leaf in leaves:
        inside = [m for m in site.kb.values() if m.category == leaf]
        cells: list[View] = []
        for value in values:
            found = [m.name for m in inside if value in known[m.id].get(question.id, [])]
            cells.append({
                "n": len(found), "names": ", ".join(found), "heat": min(4, (len(found) + 1) // 2),
                "href": f"methods/index.html?category={leaf}&{question.id}={value}",
            })  # fmt: skip
        name = " › ".join(n for n, _ in site.trail(leaf)[1:])
        rows.append({"id": leaf, "name": name, "hue": site.hue(leaf), "cells": cells})
    empty = sum(c["n"] == 0 for r in rows for c in r["cells"])
    nobody = [question.values[v] for i, v in enumerate(values) if all(r["cells"][i]["n"] == 0 for r in rows)]
    return {
        "id": question.id.replace("_", "-"), "name": question.name, "meaning": question.meaning, "rows": rows,
        "values": [{"name": question.values[v], "meaning": question.meanings.get(v, "")} for v in values],
        "empty": empty, "cells": len(rows) * len(values), "nobody": nobody,
    }  # fmt: skip


# Saved queries


def _lists(site: Site) -> str:
    return site.page(
        "lists/index.md",
        "Lists",
        "Saved queries: the methods for which a condition holds.",
        meta={"source": "taxonomy/lists.yaml", "door": "Methods", **WIDE},
        lists=[r | {"names": [(i, site.kb[i].name) for i in islice(r["ids"], 8)]} for r in site.lists],
        n_methods=len(site.kb),
    )


def list_page(site: Site, key: str) -> str:
    """Return `lists/<id>.md`: its condition and the matching methods."""
    stored = next(r for r in site.lists if r["id"] == key)
    return site.page(
        "list.md",
        stored["name"],
        stored["meaning"],
        meta={"source": "taxonomy/lists.yaml", "door": "Methods", **WIDE},
        stored=stored,
        groups=site.groups(among=stored["ids"].keys()),
        n_methods=len(site.kb),
        example_model=site.kb.models[site.examples[0]].name,
    )


# The finder


def finder(site: Site) -> View:
    """Return the data of the search form: facets with their values and counts, and facts for each row."""
    counts = _finder.counts(site)
    years = sorted({m.year for m in site.kb.values()})
    categories = [
        {"value": key, "name": ("– " * (len(site.trail(key)) - 2)) + node.name, "n": counts["category"][key]}
        for key, node in site.kb.taxonomy.categories.items()
        if key in counts["category"]
    ]
    libraries = [
        {"value": key, "name": site.library(key), "n": n} for key, n in sorted(counts.get("library", {}).items())
    ]
    asked: list[dict[str, Any]] = [
        {"id": "category", "name": "Category", "values": categories},
        {"id": "library", "name": "Library", "values": libraries},
    ]
    for question in _finder.questions(site):
        held = counts.get(question.id, {})
        values = [{"value": v, "name": name, "n": held[v]} for v, name in question.values.items() if v in held]
        asked.append({"id": question.id, "name": question.name, "values": values})
    first = ("category", "merge", "library", "stores")
    asked.sort(key=lambda a: first.index(a["id"]) if a["id"] in first else len(first))
    models = [{"value": key, "name": model.name} for key, model in site.kb.models.items()]
    models.sort(key=lambda m: m["value"] != site.examples[0])
    return {"asked": asked, "first": len(first), "years": years, "models": models}
