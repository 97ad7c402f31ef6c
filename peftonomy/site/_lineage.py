"""Draw two timelines: the methods around one method, and all methods in lanes, one for each root of the tree."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from ._svg import element

__all__ = ["Lane", "Link", "Spot", "lanes", "neighbourhood"]

LABEL, BOX, GAP, ROW, ACROSS = 42, 118, 18, 46, 3
"""Sizes in the neighbourhood: the width of the years, a box and its gap, the height of a row, boxes in a row."""
HIGH, LANE, CORNER = 26, 8, 5
"""The height of a box, the distance from a box to a line's turn, and the radius of a corner."""
SIDES = {"to": 4, "far": 0, "from": -4}
"""The offsets that separate lines to descendants, between others, and from ancestors in a gap between columns."""
CROWD = 12
"""The number of methods above which links are drawn only to the method in the middle."""
COLUMN, LINE, HEAD, TOP = 158, 18, 30, 30
"""Sizes in the lanes: the width of a year, the height of a name, the space above a lane's names and above all lanes."""


@dataclass(frozen=True)
class Spot:
    """A method in a picture, with the address of its page (None: the current page)."""

    id: str
    name: str
    year: int
    hue: int
    href: str | None = None
    about: Sequence[str] = ()
    """The relation to the method in the middle, in words."""


@dataclass(frozen=True)
class Link:
    """A relation from the younger method to the older one, with its reason."""

    source: str
    target: str
    label: str
    note: str = ""


def neighbourhood(centre: str, spots: Sequence[Spot], links: Sequence[Link]) -> Markup:
    """Return the neighbourhood as SVG: years from top to bottom, with lines between the boxes and never under one."""
    at, years, height = _rows(spots)
    known = {s.id: s for s in spots}
    ends = [{e.source, e.target} for e in links]
    near = set().union(*(e for e in ends if centre in e))
    shown = [e for e, pair in zip(links, ends, strict=True) if len(spots) <= CROWD or centre in pair or pair - near]
    lines = [_line(centre, link, at, known) for link in sorted(shown, key=lambda e: centre in (e.source, e.target))]
    labels = [element("text", str(year), class_="year", x=2, y=y + HIGH / 2, dy=".35em") for year, y in years.items()]
    boxes = [_box(s, at[s.id], s.id == centre) for s in spots]
    width = LABEL + ACROSS * (BOX + GAP)
    svg = {"class_": "pf-kin", "viewBox": f"0 0 {width} {height:g}", "role": "group"}
    label = f"Methods around {known[centre].name}, by year"
    return element("svg", *lines, *labels, *boxes, xmlns="http://www.w3.org/2000/svg", aria_label=label, **svg)


def _rows(spots: Iterable[Spot]) -> tuple[dict[str, tuple[float, float]], dict[int, float], float]:
    """Return the corner of each box, the height of each year's first row, and the total height."""
    at: dict[str, tuple[float, float]] = {}
    years: dict[int, float] = {}
    by_year: dict[int, list[Spot]] = {}
    for spot in spots:
        by_year.setdefault(spot.year, []).append(spot)
    y = 4.0
    for year in sorted(by_year):
        years[year] = y
        for i, spot in enumerate(by_year[year]):
            at[spot.id] = (LABEL + i % ACROSS * (BOX + GAP), y + i // ACROSS * ROW)
        y += -(-len(by_year[year]) // ACROSS) * ROW
    return at, years, y - ROW + HIGH + 2 * LANE


def _line(centre: str, link: Link, at: Mapping[str, tuple[float, float]], known: Mapping[str, Spot]) -> Markup:
    side = "to" if link.target == centre else "from" if link.source == centre else "far"
    said = f"{known[link.source].name} {link.label} {known[link.target].name}. {link.note}".strip()
    d = _rounded(_route(at[link.target], at[link.source], SIDES[side]))
    return element("path", element("title", said), class_=f"edge {side}", d=d)


def _route(one: tuple[float, float], other: tuple[float, float], aside: float) -> list[tuple[float, float]]:
    """Return the corners of a line between two boxes: down from the upper box, along a gap, into the lower box."""
    (x1, y1), (x2, y2) = sorted((one, other), key=lambda corner: corner[1])
    a, b = x1 + BOX / 2, x2 + BOX / 2
    out, into = y1 + HIGH + LANE, y2 - LANE
    if y1 == y2:
        return [(a, y1 + HIGH), (a, out), (b, out), (b, y2 + HIGH)]
    if y2 == y1 + ROW:
        return [(a, y1 + HIGH), (a, into), (b, into), (b, y2)]
    left = x1 < x2 or (x1 == x2 and x2 > LABEL)  # the gap on the upper box's side, or the inner gap in one column
    gap = (x2 if left else x2 + BOX + GAP) - GAP / 2 + aside
    return [(a, y1 + HIGH), (a, out), (gap, out), (gap, into), (b, into), (b, y2)]


def _rounded(corners: Sequence[tuple[float, float]]) -> str:
    """Return the path through the corners, each rounded as far as its shorter side allows."""
    points = [c for i, c in enumerate(corners) if i == 0 or c != corners[i - 1]]
    d = "M{:g} {:g}".format(*points[0])
    for before, here, after in zip(points, points[1:], points[2:], strict=False):
        near, far = _towards(here, before), _towards(here, after)
        d += f"L{near[0]:g} {near[1]:g}Q{here[0]:g} {here[1]:g} {far[0]:g} {far[1]:g}"
    return d + "L{:g} {:g}".format(*points[-1])


def _towards(corner: tuple[float, float], end: tuple[float, float]) -> tuple[float, float]:
    """Return the point towards `end` at which the rounding of a corner stops."""
    (x, y), (u, v) = corner, end
    length = abs(u - x) + abs(v - y)  # lines are horizontal or vertical
    step = min(CORNER, length / 2) / length
    return x + (u - x) * step, y + (v - y) * step


def _box(spot: Spot, corner: tuple[float, float], centre: bool) -> Markup:
    x, y = corner
    said = ". ".join([f"{spot.name}, {spot.year}", *spot.about])
    parts = [
        element("title", said),
        element("rect", x=x, y=y, width=BOX, height=HIGH, rx=6),
        element("text", _short(spot.name, 18), x=x + BOX / 2, y=y + HIGH / 2, dy=".35em"),
    ]
    if centre:
        return element("g", *parts, class_=f"box centre hue-{spot.hue}")
    return element("a", *parts, class_=f"box hue-{spot.hue}", href=spot.href)


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
        """Return the methods of one year."""
        return [s for s in self.spots if s.year == year]


def lanes(rows: Sequence[Lane], links: Sequence[Link] = ()) -> Markup:
    """Return the lanes as SVG: years from left to right, one lane for each non-empty root.

    links: lines from the dot of each method to that of a method it builds on. Names and lines have the ids of their
    methods as `data-symbol`, so that pointing at a name marks its lines.
    """
    shown = [lane for lane in rows if lane.spots]
    every = [s.year for lane in shown for s in lane.spots]
    years = list(range(min(every, default=0), max(every, default=0) + 1)) if every else []
    grounds, names = list[Markup](), list[Markup]()
    y, at = float(TOP), dict[str, tuple[float, float]]()
    for lane in shown:
        height = HEAD + LINE * max(len(lane.year(year)) for year in years) + 6
        ground, inside = _lane(lane, years, y, height, at)
        grounds.append(ground)
        names.append(inside)
        y += height + 6
    edges = [_edge(link, at[link.target], at[link.source]) for link in links if {link.source, link.target} <= at.keys()]
    width = COLUMN * len(years)
    grid = [element("path", class_="grid", d=f"M{COLUMN * i} {TOP - 4}V{y - 6:g}") for i in range(1, len(years))]
    heads = [element("text", str(n), class_="year", x=COLUMN * i + 10, y=18) for i, n in enumerate(years)]
    svg = {"class_": "pf-lanes", "viewBox": f"0 0 {width} {y:g}", "role": "group", "aria_label": "Methods by year"}
    return element("svg", *grounds, *grid, *edges, *names, *heads, xmlns="http://www.w3.org/2000/svg", **svg)


def _edge(link: Link, old: tuple[float, float], new: tuple[float, float]) -> Markup:
    """Return a curve between two dots."""
    (x1, y1), (x2, y2) = old, new
    bend = max(24.0, abs(x2 - x1) / 2.5)
    d = f"M{x1:g} {y1:g}C{x1 + bend if x2 > x1 else x1 - bend:g} {y1:g} {x2 - bend:g} {y2:g} {x2:g} {y2:g}"
    return element("path", class_="edge", d=d, data_symbol=f"{link.source} {link.target}")


def _lane(
    lane: Lane, years: Sequence[int], y: float, height: float, at: dict[str, tuple[float, float]]
) -> tuple[Markup, Markup]:
    """Return the ground of one lane and its names, and add the position of each dot to `at`."""
    ground = element("rect", class_="ground", x=0, y=y, width=COLUMN * len(years), height=height, rx=8)
    name = element("a", element("text", lane.name, class_="lane", x=10, y=y + 19), href=lane.href)
    placed = [
        (spot, COLUMN * i + 14, y + HEAD + LINE * (n + 0.5))
        for i, year in enumerate(years)
        for n, spot in enumerate(lane.year(year))
    ]
    at |= {spot.id: (x, line) for spot, x, line in placed}
    spots = [_name(spot, x, line) for spot, x, line in placed]
    hue = f"hue-{lane.hue}"
    return element("g", ground, class_=hue), element("g", name, *spots, class_=hue)


def _name(spot: Spot, x: float, y: float) -> Markup:
    parts = [
        element("title", f"{spot.name} ({spot.year})"),
        element("circle", cx=x, cy=f"{y:g}", r=3.2),
        element("text", _short(spot.name, 22), x=x + 9, y=f"{y:g}", dy=".35em"),
    ]
    return element("a", *parts, href=spot.href, data_symbol=spot.id)
