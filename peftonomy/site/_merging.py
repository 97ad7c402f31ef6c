"""The page of merging into a quantised base: why a small update vanishes, and which merges are exact."""

from __future__ import annotations

from ..knowledge.serving import exactness
from ..serving.rounding import FORMATS, Rounded, gaussian_scale, rounded
from ._plot import Axis, Dot, scatter
from ._site import Site, View

__all__ = ["merging_page"]

ROW = 4096
"""The width of a row in the picture of a format with a scale for each row."""
NAMES = {"nf4": "NF4, blocks of 64", "int8": f"8 bits, rows of {ROW:,}"}
RATIOS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
STEPS = 40


def merging_page(site: Site) -> str:
    """Return `merging.md`."""
    kb = site.kb
    rows: list[View] = [
        {"ratio": f"{rho:g}", "cells": [{"kept": f"{one.kept:.1%}", "error": f"{one.error:.2f}", "is": one.verdict}
                                        for one in (_at(name, rho) for name in FORMATS)]}
        for rho in RATIOS
    ]  # fmt: skip
    found = {key: exactness(kb[key]) for key in kb}
    exact = [
        {"id": key, "name": kb[key].name, "hue": site.hue(kb[key].category), **one}
        for key, one in found.items()
        if one["holds"] != "none"
    ]
    return site.page(
        "merging.md",
        "Merging into a quantised base",
        "Why a small update vanishes when it is merged into quantised weights, and which merges are exact.",
        meta={"door": "Methods", "hide": ["toc"]},
        names=list(NAMES.values()), rows=rows, charts=[_chart(name) for name in FORMATS], exact=exact,
    )  # fmt: skip


def _at(name: str, rho: float) -> Rounded:
    size = FORMATS[name].size(ROW)
    return rounded(name, (gaussian_scale(size),), size, rho)


def _chart(name: str) -> View:
    """Return the part of an update that remains, by its size."""
    x = Axis("update by weights", lambda v: f"{v:g}", log=True)
    y = Axis("% that remains", lambda v: f"{v:g}")
    line = []
    for i in range(STEPS + 1):
        rho = 10 ** (-3 + 3 * i / STEPS)
        kept = 100 * _at(name, rho).kept
        line.append(Dot(rho, kept, 0, f"{rho:.3g}: {kept:.1f} % remain"))
    told = f"{NAMES[name]}: the part of an update that remains, by its norm relative to that of the weights"
    return {"name": NAMES[name], "picture": scatter(line[:: STEPS // 10], x, y, told, front=line)}
