"""The page of combinations: which sums of adapters are exact in a library, and which adapters convert to LoRA."""

from __future__ import annotations

from ..schema.combinations import Combinations
from ._site import Site, View

__all__ = ["combine_page"]

WORDS = {
    "exact": "exact", "at_rank": "exact at a sufficient rank", "approximate": "approximate", "refused": "refused",
    "wrong": "wrong without an error",
}  # fmt: skip


def combine_page(site: Site, found: Combinations) -> str:
    """Return `combine.md`."""
    library = site.kb.libraries[found.library]
    ranks = sorted({int(rank) for one in found.conversions.values() for rank in one.errors})
    sums: list[View] = [
        {
            "id": name.replace("_", "-"), "name": one.name, "methods": [m for m in one.methods if m in site.kb],
            "note": " ".join(one.note.split()),
            "cells": [None if (way := one.ways.get(key)) is None else {"id": way, "word": WORDS[way]}
                      for key in found.ways],
            "source": site.cite(one.source),
        }
        for name, one in found.sums.items()
    ]  # fmt: skip
    conversions: list[View] = [
        {
            "method": one.method, "name": site.kb[one.method].name, "result": one.result, "word": WORDS[one.result],
            "config": ", ".join(f"{key}={value}" for key, value in one.config.items() if key != library.type_key),
            "rank": "" if one.rank is None else one.rank.source, "bound": one.bound, "note": one.note or "",
            "errors": [one.errors.get(str(rank)) for rank in ranks],
        }
        for one in found.conversions.values()
        if one.method in site.kb
    ]  # fmt: skip
    return site.page(
        "combine.md",
        "Combine adapters",
        "Which weighted sums of adapters are exact, and which adapters convert to LoRA at which rank.",
        meta={"source": "taxonomy/combinations.yaml", "door": "Methods", "hide": ["toc"]},
        library=f"{library.name} {library.version}", note=found.note, call=found.call, convert=found.convert,
        ways=[{"id": key, "names": way.names, "note": way.note} for key, way in found.ways.items()],
        sums=sums, conversions=conversions, ranks=ranks, width=found.width,
        source=site.cite(found.source), convert_source=site.cite(found.convert_source),
    )  # fmt: skip
