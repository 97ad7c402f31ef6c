"""The page of support: each method in each library and trainer, with its name there, release and base models."""

from __future__ import annotations

from typing import Any

from ..knowledge.support import providers, records
from ..schema.support import ASPECTS, Trainer
from ._site import Site, View
from ._text import safe_url

__all__ = ["support_page"]

BASES = {
    "quantised": ("Q", "a quantised base"), "moe": ("M", "a mixture of experts"), "fsdp": ("F", "FSDP"),
    "deepspeed": ("D", "DeepSpeed"),
}  # fmt: skip
"""Each aspect with its letter in the matrix and its name."""


def support_page(site: Site) -> str:
    """Return `support.md`."""
    there = providers(site.kb)
    found: dict[tuple[str, str], View] = {(r["method"], r["in"]): _cell(site, r) for r in records(site.kb)}
    order = [m for key in site.kb.taxonomy.categories for m in site.in_category(key)]
    rows: list[View] = [
        {
            "id": m.id, "name": m.name, "year": m.year, "hue": site.hue(m.category),
            "cells": [found.get((m.id, key)) for key in there],
        }
        for m in order
        if any((m.id, key) in found for key in there)
    ]  # fmt: skip
    columns = [_column(site, key, one) for key, one in there.items()]
    for column in columns:
        column["rows"] = [
            row | cell | _own(site, column["id"], row["id"], cell)
            for row in rows
            if (cell := found.get((row["id"], column["id"])))
        ]
    return site.page(
        "support.md",
        "Support",
        "Which library or trainer has a method, since which release, and on which base models.",
        meta={"source": "taxonomy/trainers/llama_factory.yaml", "door": "Methods", "hide": ["toc"]},
        columns=columns,
        rows=rows,
        bases=[{"id": a, "letter": BASES[a][0], "name": BASES[a][1]} for a in ASPECTS],
        writers=[c for c in columns if c["writes"]],
    )


def _column(site: Site, key: str, one: Any) -> View:
    return {
        "id": key, "name": site.library(key), "version": one.version, "note": " ".join(one.note.split()),
        "trainer": isinstance(one, Trainer), "writes": isinstance(one, Trainer) and one.recipe is not None,
        "source": site.cite(one.source),
    }  # fmt: skip


def _cell(site: Site, record: dict[str, Any]) -> View:
    """Return one cell of the matrix, with links to its sources."""
    bases = [
        {
            "id": name, "letter": BASES[name][0], "name": BASES[name][1], "works": one["works"], "note": one["note"],
            "href": address(site, one["source"]),
        }
        for name in ASPECTS
        if (one := record["base"][name])
    ]  # fmt: skip
    keys = [{"ours": ours, **key, "shown": _default(key["default"])} for ours, key in record["keys"].items()]
    return {
        "in": record["in"], "called": record["name"], "since": record["since"] or "", "fails": record["fails"] or "",
        "note": record["note"] or "", "scale": record["scale"] or "", "keys": keys, "bases": bases,
        "href": address(site, record["source"]), "works": [b["id"] for b in bases if b["works"] != "none"],
    }  # fmt: skip


def _own(site: Site, key: str, method: str, cell: View) -> View:
    """Return the conditions that a method does not share with another one, and the name of that one."""
    offer = site.kb.trainers[key].methods[method] if key in site.kb.trainers else None
    if offer is None or offer.like is None:
        return {"own": cell["bases"], "like": ""}
    return {"own": [b for b in cell["bases"] if b["id"] in offer.base], "like": site.kb[offer.like].name}


def _default(value: Any) -> str:
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def address(site: Site, citation: str | None) -> str:
    """Return the address of a citation: the file at its commit, or else the source in the list of references."""
    key, _, place = (citation or "").partition("#")
    if key not in site.kb.references:
        return ""
    reference = site.kb.references[key]
    if place and reference.commit and reference.url.startswith("https://github.com/"):
        return safe_url(f"{reference.url}/blob/{reference.commit}/{place.partition(':')[0]}") or ""
    return f"references.html#{key}"
