"""The page of serving: what merges, swaps and shares a batch, which engine takes it, and the bytes of an adapter."""

from __future__ import annotations

from typing import Any

from ..errors import UsageError
from ..knowledge.serving import records
from ._site import Site, View
from ._support import address
from ._text import safe_url

__all__ = ["serving_page"]

WORDS = {
    "taken": ("yes", "ok"), "converted": ("convert", "accent"), "refused": ("refused", ""), "wrong": ("wrong", "bad"),
    "unknown": ("–", ""),
}  # fmt: skip
"""Each answer of an engine with its word and its colour."""
TRAITS = {"mergeable": "Merges", "swappable": "Swaps", "batched": "Shares a batch"}
SETTINGS = (1, False), (4, False), (4, True)
"""The GPUs of the example, with and without full sharding."""
RANK = 16


def serving_page(site: Site) -> str:
    """Return `serving.md`."""
    kb = site.kb
    found = {row["method"]: row for row in records(kb)}
    order = [m for key in kb.taxonomy.categories for m in site.in_category(key)]
    rows: list[View] = [
        {
            "id": m.id, "name": m.name, "hue": site.hue(m.category),
            "traits": [found[m.id][name] for name in TRAITS],
            "engines": [_cell(site, key, found[m.id]["engines"][key]) for key in kb.engines],
        }
        for m in order
    ]  # fmt: skip
    return site.page(
        "serving.md",
        "Serving",
        "Which methods merge, swap and share a batch, which engine takes them, and the bytes of an adapter.",
        meta={"source": "taxonomy/engines/vllm.yaml", "door": "Methods", "hide": ["toc"]},
        traits=list(TRAITS.values()),
        engines=[_engine(site, key) for key in kb.engines],
        rows=rows,
        examples=_examples(site),
        settings=[{"tp": tp, "sharded": sharded} for tp, sharded in SETTINGS],
        rank=RANK, **_unmerged(site),
    )  # fmt: skip


def _cell(site: Site, key: str, answer: dict[str, Any]) -> View:
    word, colour = WORDS[answer["works"]]
    earlier = " ".join(f"{one['version']}: {WORDS[one['works']][0]}. {one['note']}" for one in answer["earlier"])
    return {
        "in": key, "works": answer["works"], "word": word, "colour": colour,
        "note": f"{answer['note']} {earlier}".strip(), "href": address(site, answer["source"]),
    }  # fmt: skip


def _engine(site: Site, key: str) -> View:
    one = site.kb.engines[key]
    return {
        "id": key, "name": one.name, "version": one.version, "note": " ".join(one.note.split()),
        "allocates": {"start": "at the start", "load": "when an adapter loads"}[one.allocates], "limit": one.limit,
        "ranks": ", ".join(map(str, one.ranks)), "families": sorted(one.families), "beside": one.beside,
        "source": site.cite(one.source),
        "wrong": [m for m, t in one.methods.items() if t.works == "wrong" and m in site.kb],
    }  # fmt: skip


def _examples(site: Site) -> list[View]:
    """Return the bytes of one adapter of each example model in each engine."""
    rows: list[View] = []
    for model in site.examples:
        for key, engine in site.kb.engines.items():
            cells: list[int | None] = []
            for tp, sharded in SETTINGS:
                try:
                    found = site.kb[site.settings.query.method].serving(
                        model, engine=key, max_rank=RANK, r=RANK, tp=tp, fully_sharded=sharded
                    )  # fmt: skip
                except UsageError:
                    cells.append(None)
                else:
                    cells.append(found.slot_bytes)
            if any(cells):
                rows.append({"model": model, "name": site.kb.models[model].name, "engine": engine.name, "cells": cells})
    return rows


def _unmerged(site: Site) -> View:
    """Return the launches of unmerged adapters with their operations on the first example that has them."""
    found = site.kb.unmerged
    if found is None:
        return {"launches": [], "published": [], "unmerged": "", "library": "", "model": None}
    library, model = site.kb.libraries[found.library], site.kb.models[site.examples[0]]
    launches = []
    for key, one in found.launches.items():
        if key in site.kb:
            cells = _token(site, key)
            launches.append({"id": key, "name": site.kb[key].name, "same": one.same, "mixed": one.mixed, **cells})
    against = {"base": "no adapter", "merged": "merged"}
    published = [
        {
            "what": one.what, "measure": one.measure, "against": against[one.against],
            "without": one.without, "with": one.with_, "href": _thread(site, one.source),
        }
        for one in found.published
    ]  # fmt: skip
    return {
        "launches": sorted(launches, key=lambda row: row["same"]), "published": published,
        "unmerged": " ".join(found.note.split()), "library": f"{library.name} {library.version}",
        "example": {"id": model.id, "name": model.name},
    }  # fmt: skip


def _token(site: Site, method: str) -> View:
    """Return what a method at its defaults adds to a decoded token of the example, and its share."""
    try:
        found = site.kb[method].serving(site.kb.models[site.examples[0]])
    except UsageError:
        return {"bytes": None, "flops": None, "total": None}
    return {"bytes": found.unmerged_bytes, "flops": found.unmerged_flops, "total": found.unmerged_launches}


def _thread(site: Site, source: str) -> str:
    """Return the address of a thread: the number after the address of the list of threads."""
    key, _, number = source.partition("#")
    if key in site.kb.references and number.isdecimal():
        return safe_url(f"{site.kb.references[key].url}/{number}") or ""
    return address(site, source)
