"""The parts of a method that the comparison shows beside its numbers, as one small script per method.

A page from a folder may load scripts only, so the parts are in scripts. They come from the same functions and templates
as the method's own page.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from ..knowledge.base import Method
from . import _equation, _scale
from ._method import where
from ._site import Site

__all__ = ["cards"]


def cards(site: Site) -> Iterator[tuple[str, str]]:
    """Yield the script of each method by its path."""
    for key, method in site.kb.items():
        text = json.dumps(_card(site, method), ensure_ascii=False).replace("</", "<\\/")
        yield f"assets/cards/{key}.js", f'"use strict";\npeft.cards["{key}"] = {text};\n'


def _card(site: Site, method: Method) -> str:
    entry = method.entry
    deviations = [
        {"library": site.library(library), "effect": d.effect, "note": " ".join(d.note.split())}
        for library, found in entry.implementations.items()
        for d in found.deviations
    ]
    equation, scale = site.once(_equation.equation, method), site.once(_scale.to_scale, method)
    block = site.once(where, method)["block"]
    template = site.env.get_template("card.html")
    return template.render(entry=entry, equation=equation, block=block, scale=scale, deviations=deviations).strip()
