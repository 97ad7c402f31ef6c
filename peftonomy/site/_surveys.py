"""Recompute a survey's experiments, and compare other surveys' trees with ours: plain data for pages and the API."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

from ..errors import UsageError
from ..formula import Formula
from ..knowledge.base import KnowledgeBase, Method
from ..knowledge.claims import judge, printed
from ..schema.claims import Claim
from ..schema.taxonomy import SurveyNode

__all__ = ["AGREES", "DIFFERS", "ELSEWHERE", "crosswalk", "experiments", "filed", "tree"]

View = dict[str, Any]
AGREES, DIFFERS, ELSEWHERE = "agrees", "differs", "other axis"
"""The relations of a survey's class to our top category: its counterpart, another one, or a cross-cutting one."""


# The experiments of one survey


def experiments(kb: KnowledgeBase, key: str) -> list[View]:
    """Return every claim from the survey `key`, recomputed, by model and in the order of the tree."""
    order = {category: i for i, category in enumerate(kb.taxonomy.categories)}
    methods = sorted(kb.values(), key=lambda m: (order.get(m.category, 0), m.year, m.id))
    models = list(kb.models)
    rows = [_experiment(m, claim) for m in methods for claim in m.entry.claims if claim.source.partition("#")[0] == key]
    return sorted(rows, key=lambda row: models.index(row["model"]) if row["model"] in models else len(models))


def _experiment(method: Method, claim: Claim) -> View:
    row: View = {
        "method": method.id, "name": method.name, "claim": claim.id, "model": claim.model, "reported": claim.reported,
        "evidence": claim.evidence, "quantity": claim.quantity.source, "set": dict(claim.set),
        "targets": claim.targets or [], "target_modules": claim.target_modules or [], "task": claim.task,
        "num_labels": claim.num_labels if claim.task == "seq_cls" else None,
        "parts": [
            {"method": p.method, "times": p.times, "set": dict(p.set), "targets": p.targets or []}
            for p in claim.parts or []
        ],
        "head_counted": "head" in claim.quantity.names, "verdict": claim.verdict, "note": claim.note or "",
        "source": claim.source, "computed": None, "method_alone": None, "difference": None, "agreement": None,
    }  # fmt: skip
    target = printed(claim.reported)
    try:
        found = judge(method, claim)
    except (UsageError, AssertionError):  # its verdict states that it cannot be recomputed
        return row
    alone = judge(method, claim.model_copy(update={"quantity": Formula.parse("trained")})).value
    row |= {"computed": _plain(found.value), "method_alone": _plain(alone)}
    if target is None:
        return row
    return row | {"agreement": found.agreement, "difference": _plain(found.value - target[0])}


def _plain(value: Decimal) -> int | float:
    return int(value) if value == int(value) else float(value)


# Our methods in other surveys


def filed(kb: KnowledgeBase, method: str, category: str) -> list[View]:
    """Return every class of a survey that contains the method: survey, path, and relation to our category."""
    top, found = category.partition(".")[0], []
    for key, survey in kb.taxonomy.surveys.items():
        for path in survey.filed(method):
            like = next((node.like for node in reversed(path) if node.like), None)
            stands = ELSEWHERE if like is None else AGREES if like.partition(".")[0] == top else DIFFERS
            found.append({
                "survey": key, "path": [n.name for n in path], "class": [n.id for n in path], "like": like,
                "stands": stands,
            })  # fmt: skip
    return found


def crosswalk(kb: KnowledgeBase) -> list[View]:
    """Return each method that some survey files, in the order of our tree."""
    taxonomy = kb.taxonomy
    known = {m.id: (m.name, m.year, m.category) for m in kb.values()}
    order = {category: i for i, category in enumerate(taxonomy.categories)}
    rows = [
        {"method": key, "name": name, "year": year, "category": category, "entry": True, "filed": places}
        for key, (name, year, category) in known.items()
        if (places := filed(kb, key, category))
    ]
    return sorted(rows, key=lambda r: (order.get(str(r["category"]), len(order)), r["year"], str(r["method"])))


def tree(nodes: Sequence[SurveyNode]) -> Iterator[View]:
    """Yield a survey's tree as plain data."""
    for node in nodes:
        yield {
            "id": node.id, "name": node.name, "like": node.like, "maps_to": node.maps_to, "methods": node.methods,
            "children": list(tree(node.children)),
        }  # fmt: skip
