"""The picture of the methods around one method: those it builds on, and those that build on it."""

from __future__ import annotations

from markupsafe import Markup

from ..knowledge.base import Method
from . import _lineage
from ._site import Site

__all__ = ["kin"]

MOST = 16
"""The number of methods in a picture. If more build on a method, the picture shows what it builds on; a list has the
others by category."""


def kin(site: Site, method: Method) -> Markup:
    """Return the picture of methods one relation away, of their ancestors, and of grandchildren if they are few.

    A method that builds on nothing, and on which many build, has no picture.
    """
    graph, near = site.kb.graph, dict[str, list[str]]()
    for r in graph.related(method.id):
        near.setdefault(r["method"], []).append(f"{method.name} {r['name']} it: {r['note']}")
    own = {r.target for r in method.entry.relations}
    known = {key for key in (*near, method.id) if key in site.kb}
    far = {g for parent in graph.parents(method.id) for g in graph.parents(parent)}
    later = known - own - {method.id}
    if len(known) > MOST and len(later) > MOST // 2:
        known = (known | far) - later
    else:
        younger = {g for child in graph.children(method.id) for g in graph.children(child)} - known
        known |= far | (younger if len(known | far | younger) <= MOST else set())
    if known == {method.id}:
        return Markup("")
    spots = [_spot(site, key, near.get(key, [])) for key in known]
    return _lineage.neighbourhood(method.id, sorted(spots, key=lambda s: (s.year, s.id)), _links(site, known))


def _links(site: Site, known: set[str]) -> list[_lineage.Link]:
    return [
        _lineage.Link(key, r.target, site.kb.taxonomy.relations[r.type].name, r.note)
        for key in sorted(known & set(site.kb))
        for r in site.kb[key].entry.relations
        if r.target in known
    ]


def _spot(site: Site, key: str, about: list[str]) -> _lineage.Spot:
    one = site.kb[key]
    return _lineage.Spot(key, one.name, one.year, site.hue(one.category), f"{key}.html", about)
