"""Two pictures in time: the methods around one method, and all methods in lanes, one for each root of the tree."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from ._svg import element

__all__ = ["Lane", "Link", "Spot", "lanes", "neighbourhood"]

LABEL, BOX, GAP, ROW, ACROSS = 42, 118, 6, 46, 3
"""Of the neighbourhood: the width left for years, a box and its gap, the height of a row, boxes in a row."""
HIGH = 26
COLUMN, LINE, HEAD, TOP = 158, 18, 30, 30
"""Of the lanes: the width of a year, the height of a name, the space above the names of a lane and above all."""


@dataclass(frozen=True)
class Spot:
    """A method in a picture; one without `href` has no entry yet."""

    id: str
    name: str
    year: int
    hue: int
    href: str | None = None
    about: Sequence[str] = ()
    """What joins it to the method in the middle, in words."""


@dataclass(frozen=True)
class Link:
    """A relation from the younger method to the older one, with its reason."""

    source: str
    target: str
    label: str
    note: str = ""


def neighbourhood(centre: str, spots: Sequence[Spot], links: Sequence[Link]) -> Markup:
    """Years from top to bottom, the oldest first; curves lead from the older method to the younger."""
    at, years, height = _rows(spots)
    known = {s.id: s for s in spots}
    curves = [_curve(centre, link, at, known) for link in sorted(links, key=lambda e: centre in (e.source, e.target))]
    labels = [element("text", str(year), class_="year", x=2, y=y + HIGH / 2, dy=".35em") for year, y in years.items()]
    boxes = [_box(s, at[s.id], s.id == centre) for s in spots]
    width = LABEL + ACROSS * (BOX + GAP)
    svg = {"class_": "pf-kin", "viewBox": f"0 0 {width} {height}", "role": "group"}
    label = f"Methods around {known[centre].name}, by year"
    return element("svg", *curves, *labels, *boxes, xmlns="http://www.w3.org/2000/svg", aria_label=label, **svg)


def _rows(spots: Iterable[Spot]) -> tuple[dict[str, tuple[float, float]], dict[int, float], float]:
    """The corner of each box, the height of each year's first row, and of the whole."""
    at: dict[str, tuple[float, float]] = {}
    years: dict[int, float] = {}
    by_year: dict[int, list[Spot]] = {}
    for spot in spots:
        by_year.setdefault(spot.year, []).append(spot)
    y = 4.0
    for year in sorted(by_year):
        years[year] = y
        row = by_year[year]
        for start in range(0, len(row), ACROSS):
            some = row[start : start + ACROSS]
            free = (ACROSS - len(some)) * (BOX + GAP) / 2
            for i, spot in enumerate(some):
                at[spot.id] = (LABEL + free + i * (BOX + GAP), y)
            y += ROW
    return at, years, y - ROW + HIGH + 12


def _curve(centre: str, link: Link, at: Mapping[str, tuple[float, float]], known: Mapping[str, Spot]) -> Markup:
    (x1, y1), (x2, y2) = at[link.target], at[link.source]
    x1, x2 = x1 + BOX / 2, x2 + BOX / 2
    if y2 > y1:
        start, stop = y1 + HIGH, y2
        bend = min(26.0, (stop - start) / 2)
        d = f"M{x1:g} {start:g}C{x1:g} {start + bend:g} {x2:g} {stop - bend:g} {x2:g} {stop:g}"
    else:  # of one row, or the older one lies below: below both
        low = max(y1, y2) + HIGH
        d = f"M{x1:g} {y1 + HIGH:g}C{x1:g} {low + 14:g} {x2:g} {low + 14:g} {x2:g} {y2 + HIGH:g}"
    side = "to" if link.target == centre else "from" if link.source == centre else "far"
    said = f"{known[link.source].name} {link.label} {known[link.target].name}. {link.note}".strip()
    return element("path", element("title", said), class_=f"edge {side}", d=d)


def _box(spot: Spot, corner: tuple[float, float], centre: bool) -> Markup:
    x, y = corner
    said = ". ".join([f"{spot.name}, {spot.year}{'' if spot.href or centre else ', no entry yet'}", *spot.about])
    parts = [
        element("title", said),
        element("rect", x=x, y=y, width=BOX, height=HIGH, rx=6),
        element("text", _short(spot.name, 18), x=x + BOX / 2, y=y + HIGH / 2, dy=".35em"),
    ]
    state = "box centre" if centre else "box" if spot.href else "box planned"
    if centre or not spot.href:
        return element("g", *parts, class_=f"{state} hue-{spot.hue}")
    return element("a", *parts, class_=f"{state} hue-{spot.hue}", href=spot.href)


def _short(name: str, most: int) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


@dataclass(frozen=True)
class Lane:
    """A root of the category tree with all methods below it."""

    name: str
    hue: int
    href: str
    spots: Sequence[Spot] = field(default=())

    def year(self, year: int) -> list[Spot]:
        """The methods of one year."""
        return [s for s in self.spots if s.year == year]


def lanes(rows: Sequence[Lane]) -> Markup:
    """Years from left to right, one lane for each root; empty lanes are left out."""
    shown = [lane for lane in rows if lane.spots]
    every = [s.year for lane in shown for s in lane.spots]
    years = list(range(min(every, default=0), max(every, default=0) + 1)) if every else []
    parts, y = [], float(TOP)
    for lane in shown:
        height = HEAD + LINE * max(len(lane.year(year)) for year in years) + 6
        parts.append(_lane(lane, years, y, height))
        y += height + 6
    width = COLUMN * len(years)
    grid = [element("path", class_="grid", d=f"M{COLUMN * i} {TOP - 4}V{y - 6:g}") for i in range(1, len(years))]
    heads = [element("text", str(n), class_="year", x=COLUMN * i + 10, y=18) for i, n in enumerate(years)]
    svg = {"class_": "pf-lanes", "viewBox": f"0 0 {width} {y:g}", "role": "group", "aria_label": "Methods by year"}
    return element("svg", *parts, *grid, *heads, xmlns="http://www.w3.org/2000/svg", **svg)


def _lane(lane: Lane, years: Sequence[int], y: float, height: float) -> Markup:
    ground = element("rect", class_="ground", x=0, y=y, width=COLUMN * len(years), height=height, rx=8)
    name = element("a", element("text", lane.name, class_="lane", x=10, y=y + 19), href=lane.href)
    spots = [
        _name(spot, COLUMN * i + 14, y + HEAD + LINE * (n + 0.5))
        for i, year in enumerate(years)
        for n, spot in enumerate(lane.year(year))
    ]
    return element("g", ground, name, *spots, class_=f"hue-{lane.hue}")


def _name(spot: Spot, x: float, y: float) -> Markup:
    parts = [
        element("title", f"{spot.name} ({spot.year}){'' if spot.href else ', no entry yet'}"),
        element("circle", cx=x, cy=f"{y:g}", r=3.2),
        element("text", _short(spot.name, 22), x=x + 9, y=f"{y:g}", dy=".35em"),
    ]
    return element("a", *parts, href=spot.href) if spot.href else element("g", *parts, class_="planned")
