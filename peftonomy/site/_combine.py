"""The page of combinations: methods that merge, exact sums of adapters in a library, and conversions to LoRA."""

from __future__ import annotations

from ..errors import UsageError
from ..files.output import binary_text
from ..knowledge.base import Method
from ..schema.combinations import Combinations
from ._site import Site, View
from ._text import volume

__all__ = ["SUMS", "combine_page", "combined"]

SUMS = {"exact": "exact", "approximate": "approximate", None: "beside the weights"}

WORDS = {
    "exact": "exact", "at_rank": "exact at a sufficient rank", "approximate": "approximate", "refused": "refused",
    "wrong": "wrong without an error",
}  # fmt: skip


def combined(site: Site, method: Method) -> View | None:
    """Return the inputs, the result and the memory of a method's combination on each example model; None if none."""
    found = method.entry.combines
    if found is None:
        return None
    rows: list[View] = []
    for model in site.examples:
        try:
            one = method.combination(model)
        except UsageError:  # the method has no targets in this model
            continue
        rows.append({
            "id": model, "name": site.kb.models[model].name, "inputs": one.inputs,
            "each": volume(one.each_bytes), "all": volume(one.inputs_bytes), "result": volume(one.stored_bytes),
            "temporary": binary_text(one.temporary), "peak": binary_text(one.peak),
        })  # fmt: skip
    of = site.kb[found.method]
    return {
        "id": method.id, "name": method.name, "of": of.id, "of_name": of.name, "rows": rows, "note": found.note or "",
        "number": found.inputs.source, "sum": found.sum, "word": SUMS[found.sum],
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
        "Methods that merge, weighted sums of adapters that are exact, and adapters that convert to LoRA.",
        meta={"source": "taxonomy/combinations.yaml", "door": "Methods", "hide": ["toc"]},
        library=f"{library.name} {library.version}", note=found.note, call=found.call, convert=found.convert,
        ways=[{"id": key, "names": way.names, "note": way.note} for key, way in found.ways.items()],
        merging=[view for method in site.kb.values() if (view := combined(site, method)) is not None],
        model=site.kb.models[site.examples[0]].name, sums=sums, conversions=conversions, ranks=ranks, width=found.width,
        source=site.cite(found.source), convert_source=site.cite(found.convert_source),
    )  # fmt: skip
