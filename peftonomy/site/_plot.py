"""Draw plots while the site is built: axes, points with links, lines and bars, as SVG for both colour schemes.

Plots are 360 units wide, so that they are readable at the width of a phone. The style sheet sets the colours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ._svg import element

__all__ = ["Axis", "Dot", "bars", "scatter", "short"]

WIDTH, HEIGHT = 360.0, 250.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 10.0, 22.0, 36.0
"""The space for axes and their titles on each side of a plot."""
LETTER, LINE = 5.6, 11.0
"""The width and height of a letter of a label."""
STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
MOST_TICKS = 6


@dataclass(frozen=True)
class Axis:
    """One axis: its title, the writing of its values in units, whether it is logarithmic, and its unit."""

    title: str
    shown: Callable[[float], str]
    log: bool = False
    unit: float = 1.0

    def ends(self, values: Sequence[float]) -> tuple[float, float]:
        """Return the ends of the axis in its own scale, with room beyond the values."""
        low, high = min(map(self._scaled, values)), max(map(self._scaled, values))
        room = (high - low) * 0.06 or 1.0
        return low - room, high + room

    def share(self, value: float, ends: tuple[float, float]) -> float:
        """Return the position of a value between the ends, from 0 to 1."""
        return (self._scaled(value) - ends[0]) / (ends[1] - ends[0])

    def ticks(self, ends: tuple[float, float], most: int = MOST_TICKS) -> list[float]:
        """Return round values between the ends."""
        if self.log:
            powers = range(math.floor(ends[0]), math.ceil(ends[1]) + 1)
            wide = ends[1] - ends[0]
            finer = (1, 1.5, 2, 3, 4, 5, 7) if wide < 1 else (1, 2, 5) if wide < 2 else (1,)
            every = [m * 10.0**n * self.unit for n in powers for m in finer]
            inside = [v for v in every if ends[0] <= self._scaled(v) <= ends[1]]
            return inside[:: max(1, math.ceil(len(inside) / most))]
        rough = (ends[1] - ends[0]) / most
        power = 10.0 ** math.floor(math.log10(rough))
        step_ = next(s * power for s in STEPS if s * power >= rough)
        first = math.ceil(ends[0] / step_)
        return [round(n * step_, 10) * self.unit for n in range(first, math.floor(ends[1] / step_) + 1)]

    def text(self, value: float) -> str:
        """Return a value in units."""
        return self.shown(value / self.unit)

    def _scaled(self, value: float) -> float:
        return math.log10(value / self.unit) if self.log else value / self.unit


@dataclass(frozen=True)
class Dot:
    """One point of a plot. Points with a label have their name beside them if there is room."""

    x: float
    y: float
    hue: int
    title: str
    label: str = ""
    href: str | None = None
    interval: tuple[float, float] | None = None
    """The ends of the bar of error, upwards."""


def scatter(
    dots: Sequence[Dot], x: Axis, y: Axis, told: str, *, front: Sequence[Dot] = (), diagonal: bool = False,
    level: tuple[float, str] | None = None,
) -> Markup:  # fmt: skip
    """Return points in two dimensions.

    told: the plot in words. front: the points that a line joins. diagonal: whether to draw the line where both are
    equal, if the axes have the same scale. level: a value of `y` that a line shows, with its name.
    """
    if not dots:
        return Markup("")
    heights = [value for d in dots for value in (d.interval or (d.y,))] + ([level[0]] if level else [])
    across, up = x.ends([d.x for d in dots]), y.ends(heights)
    if diagonal:
        across = up = (min(across[0], up[0]), max(across[1], up[1]))

    def at(dot: Dot) -> tuple[float, float]:
        return _across(x.share(dot.x, across)), _up(y.share(dot.y, up))

    parts = [*_axes(x, across, y, up)]
    if diagonal:
        ends = f"M{_n(_across(0))} {_n(_up(0))}L{_n(_across(1))} {_n(_up(1))}"
        parts.append(element("path", class_="diagonal", d=ends))
    if level is not None:
        height = _up(y.share(level[0], up))
        line = {"x1": _n(LEFT), "x2": _n(WIDTH - RIGHT), "y1": _n(height), "y2": _n(height)}
        parts.append(element("line", class_="level", **line))
    if len(front) > 1:
        corners = [at(dot) for dot in front]
        parts.append(element("path", class_="front", d="M" + "L".join(f"{_n(a)} {_n(b)}" for a, b in corners)))
    for dot in dots:
        a, b = at(dot)
        if dot.interval is not None:
            low, high = (_n(_up(y.share(value, up))) for value in dot.interval)
            parts.append(element("line", class_=f"error hue-{dot.hue}", x1=_n(a), x2=_n(a), y1=low, y2=high))
        circle = element(
            "circle", element("title", dot.title), class_=f"dot hue-{dot.hue}", cx=_n(a), cy=_n(b),
            r=4 if dot.label else 3,
        )  # fmt: skip
        parts.append(element("a", circle, href=dot.href, aria_label=dot.title) if dot.href else circle)
    bars_ = [
        (at(dot)[0] - 1, *(_up(y.share(value, up)) for value in reversed(dot.interval)))
        for dot in dots if dot.interval is not None
    ]  # fmt: skip
    lines = [(left, top, left + 2, bottom) for left, top, bottom in bars_]
    taken = [*lines, *((a - 3, b - 3, a + 3, b + 3) for a, b in map(at, dots))]
    if level is not None:
        parts.append(_named(level[1], height, taken))
    parts += _labels([(dot, *at(dot)) for dot in dots], taken)
    return _svg(parts, told, group=any(dot.href for dot in dots))


def bars(
    rows: Sequence[tuple[str, float, str]], x_title: str, y_title: str, told: str, *, height: float = HEIGHT
) -> Markup:
    """Return vertical bars: the label below each (may be empty), its value, and its description."""
    most = max((value for _, value, _ in rows), default=0) or 1
    axis = Axis(y_title, short)
    up = (0.0, most * 1.05)
    wide = (WIDTH - LEFT - RIGHT) / max(1, len(rows))
    parts = [*_rows(axis, up, height)]
    for i, (label, value, title) in enumerate(rows):
        left, top = LEFT + i * wide, _up(value / up[1], height)
        thick = max(1.0, wide - (2 if wide > 6 else 0.5))
        parts.append(element(
            "rect", element("title", title), class_="bar", x=_n(left), y=_n(top), width=_n(thick),
            height=_n(height - BOTTOM - top),
        ))  # fmt: skip
        if label:
            middle = _n(left + thick / 2)
            parts.append(element("text", label, class_="tick middle", x=middle, y=_n(height - BOTTOM + 13)))
    parts.append(element("text", x_title, class_="axis end", x=_n(WIDTH - RIGHT), y=_n(height - 6)))
    return _svg(parts, told, height=height)


def short(value: float) -> str:
    """Return a number with a letter.

    >>> short(10_000_000), short(500)
    ('10M', '500')
    """
    for power, letter in ((9, "B"), (6, "M"), (3, "k")):
        if value >= 10**power:
            return f"{value / 10**power:g}{letter}"
    return f"{value:g}"


def _svg(parts: Sequence[Markup], told: str, *, group: bool = False, height: float = HEIGHT) -> Markup:
    box = f"0 0 {_n(WIDTH)} {_n(height)}"
    role = "group" if group else "img"
    return element(
        "svg", *parts, xmlns="http://www.w3.org/2000/svg", viewBox=box, role=role, aria_label=told, class_="pf-chart"
    )


def _axes(x: Axis, across: tuple[float, float], y: Axis, up: tuple[float, float]) -> Iterator[Markup]:
    for value in x.ticks(across):
        a = _across(x.share(value, across))
        yield element("line", class_="grid", x1=_n(a), x2=_n(a), y1=_n(TOP), y2=_n(HEIGHT - BOTTOM))
        yield element("text", x.text(value), class_="tick middle", x=_n(a), y=_n(HEIGHT - BOTTOM + 13))
    yield element("text", x.title, class_="axis end", x=_n(WIDTH - RIGHT), y=_n(HEIGHT - 6))
    yield from _rows(y, up, HEIGHT)


def _rows(y: Axis, up: tuple[float, float], height: float) -> Iterator[Markup]:
    for value in y.ticks(up, 5):
        b = _up(y.share(value, up), height)
        yield element("line", class_="grid", x1=_n(LEFT), x2=_n(WIDTH - RIGHT), y1=_n(b), y2=_n(b))
        yield element("text", y.text(value), class_="tick end", x=_n(LEFT - 5), y=_n(b + 3.5))
    yield element("text", y.title, class_="axis", x=2, y=11)


Box = tuple[float, float, float, float]


def _named(name: str, height: float, taken: list[Box]) -> Markup:
    """Return the name of a level, above or below its line where fewest other things are, and take that place."""
    wide = LETTER * len(name)
    places = [(left, base) for left in (LEFT + 4, WIDTH - RIGHT - wide) for base in (height - 4, height + LINE)]
    boxes = [(left, base - LINE + 2, left + wide, base + 1) for left, base in places]
    inside = [i for i, box in enumerate(boxes) if box[3] <= HEIGHT - BOTTOM]
    best = min(inside, key=lambda i: sum(_meet(boxes[i], other) for other in taken))
    taken.append(boxes[best])
    return element("text", name, class_="tick", x=_n(places[best][0]), y=_n(places[best][1]))


def _labels(dots: Sequence[tuple[Dot, float, float]], taken: list[Box]) -> Iterator[Markup]:
    """Yield the labels that find a free place beside their points, and take those places."""
    for dot, a, b in dots:
        if not dot.label:
            continue
        wide = LETTER * len(dot.label)
        places = [(a + 6, b + 3.5), (a - 6 - wide, b + 3.5), (a - wide / 2, b - 7), (a - wide / 2, b + 14)]
        for left, base in places:
            box = (left, base - LINE + 2, left + wide, base + 1)
            inside = box[0] >= LEFT and box[2] <= WIDTH and box[1] >= TOP - 8 and box[3] <= HEIGHT - BOTTOM
            if inside and not any(_meet(box, other) for other in taken):
                taken.append(box)
                yield element("text", dot.label, class_="label", x=_n(left), y=_n(base))
                break


def _meet(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _across(share: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * share


def _up(share: float, height: float = HEIGHT) -> float:
    return height - BOTTOM - (height - BOTTOM - TOP) * share


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
