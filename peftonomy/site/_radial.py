"""Draw the taxonomy as one radial picture: categories as rings, methods on the rim, relations as curves.

The picture is text from the knowledge base alone: the same input gives the same picture, its links are real links and
it needs no script. The site's style sheet sets the colours by class; `standalone` writes them into the file instead.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from ._svg import element

__all__ = ["Edge", "Leaf", "Node", "nested", "picture", "standalone"]

SIZE, RIM, RING, GAP = 1050, 405, 22, 3
"""The width of the picture, the radius of the rim, the width of a ring and the gap between rings, in user units."""
NAMES = 13
"""The space between the rim and the names, in user units."""
LONGEST = 22
"""The number of characters of a name that are shown."""
WIDE, HIGH = 0.56, 1.1
"""The mean width of a character, and the space that a line of text takes, in sizes of the font."""
BETWEEN_LEAVES, BETWEEN_ROOTS = 0.5, 1.4
"""The space after a category's methods and after a root, in slots of one method."""
TURN = -math.pi / 2


@dataclass(frozen=True)
class Leaf:
    """A method on the rim. Without `href` it is a method that only the taxonomy names."""

    id: str
    name: str
    year: int
    href: str | None = None
    summary: str = ""
    facets: str = ""
    """The tokens for filters, as words `question:value`."""


@dataclass(frozen=True)
class Node:
    """A category with its own methods and its subcategories."""

    id: str
    name: str
    hue: int
    leaves: Sequence[Leaf] = ()
    children: Sequence[Node] = ()
    href: str | None = None

    @property
    def depth(self) -> int:
        """The number of rings of the category and its subcategories."""
        return 1 + max((c.depth for c in self.children), default=0)


@dataclass(frozen=True)
class Edge:
    """A relation from the younger method to the older one."""

    source: str
    target: str
    type: str
    label: str = ""
    inverse: str = ""


@dataclass
class _Layout:
    """The angle of every method, and the range of angles of each category."""

    angle: dict[str, float] = field(default_factory=dict)
    span: dict[str, tuple[float, float]] = field(default_factory=dict)
    font: float = 0.0
    """The size of the font of all names: they neither touch each other nor leave the picture."""


def picture(roots: Sequence[Node], edges: Sequence[Edge], *, labels: bool = True, title: str = "Taxonomy") -> Markup:
    """Return the picture as inline SVG."""
    layout, rings = _laid_out(roots), max((r.depth for r in roots), default=1)
    middle = SIZE / 2
    reach = middle if labels else RIM + 16
    box = f"{middle - reach:g} {middle - reach:g} {2 * reach:g} {2 * reach:g}"
    inner = RIM - 14 - rings * (RING + GAP)
    parts = [_arcs(node, layout, inner, 0, rings, labels) for node in roots]
    parts += [_edge(e, layout, inner - 6) for e in edges if e.source in layout.angle and e.target in layout.angle]
    parts += [_leaf(leaf, node.hue, layout, labels) for node in _walk(roots) for leaf in node.leaves]
    shown = {"role": "group", "aria_label": title} if labels else {"aria_hidden": "true", "focusable": "false"}
    return element("svg", *parts, xmlns="http://www.w3.org/2000/svg", class_="pf-radial", viewBox=box, **shown)


def standalone(svg: str, hues: Mapping[int, tuple[str, str]]) -> str:
    """Return the picture as a separate file with its colours (light, dark); links go from `assets/` to the pages."""
    rules = [
        "text{font-family:system-ui,sans-serif}",
        ".sector{fill:var(--pf-hue);fill-opacity:.16} .sector--root{fill-opacity:.85}",
        ".edge{fill:none;stroke:#8a938f;stroke-opacity:.4;stroke-width:1.3} .arcname{fill:#fff;font-weight:600}",
        "circle{fill:var(--pf-hue)} text{fill:#1c2321} .leafname{fill:#68716d}",
    ]
    light = "".join(f".hue-{n}{{--pf-hue:{pair[0]}}}" for n, pair in hues.items())
    dark = "".join(f".hue-{n}{{--pf-hue:{pair[1]}}}" for n, pair in hues.items())
    dark += "svg{background:#14181a}text{fill:#e4e9e6}.arcname{fill:#14181a}.leafname{fill:#a3aeaa}"
    style = f"<style>{''.join(rules)}{light}@media (prefers-color-scheme: dark){{{dark}}}</style>"
    head, _, body = str(svg).partition(">")
    body = re.sub(r'href="(?!#)', 'href="../', body)
    return f"{head}>{style}{body}\n"


def _walk(nodes: Sequence[Node]) -> Iterator[Node]:
    for node in nodes:
        yield node
        yield from _walk(node.children)


def _laid_out(roots: Sequence[Node]) -> _Layout:
    """Assign every method a slot of equal angle, in the order of the tree; an empty category gets one slot too."""
    layout, at = _Layout(), 0.0
    raw: dict[str, float] = {}
    spans: dict[str, tuple[float, float]] = {}

    def place(node: Node) -> None:
        nonlocal at
        start = at
        for leaf in node.leaves:
            raw[leaf.id] = at + 0.5
            at += 1
        for child in node.children:
            if at > start:
                at += BETWEEN_LEAVES
            place(child)
        if at == start:
            at += 1
        spans[node.id] = (start, at)

    for root in roots:
        place(root)
        at += BETWEEN_ROOTS
    unit = 2 * math.pi / max(at, 1)
    layout.angle = {k: TURN + v * unit for k, v in raw.items()}
    layout.span = {k: (TURN + a * unit, TURN + b * unit) for k, (a, b) in spans.items()}
    longest = max((len(_shown(leaf)) for node in _walk(roots) for leaf in node.leaves), default=1)
    room = SIZE / 2 - RIM - NAMES
    layout.font = max(6.0, min(14.0, unit * (RIM + NAMES) / HIGH, room / (WIDE * longest)))
    return layout


def _point(angle: float, radius: float) -> str:
    return f"{SIZE / 2 + radius * math.cos(angle):.1f} {SIZE / 2 + radius * math.sin(angle):.1f}"


def _sector(start: float, stop: float, inner: float, outer: float) -> str:
    far = int(stop - start > math.pi)
    return (
        f"M{_point(start, inner)}L{_point(start, outer)}A{outer:g} {outer:g} 0 {far} 1 {_point(stop, outer)}"
        f"L{_point(stop, inner)}A{inner:g} {inner:g} 0 {far} 0 {_point(start, inner)}Z"
    )


def _arcs(node: Node, layout: _Layout, radius: float, level: int, rings: int, labels: bool) -> Markup:
    """Return the arcs of the node and its subcategories; a leaf category extends to the outermost ring."""
    start, stop = layout.span[node.id]
    inner, outermost = radius + RING + GAP, radius + (rings - level) * (RING + GAP) - GAP
    ends = not node.children
    shape = _sector(start, stop, radius, outermost if ends and level else radius + RING)
    kind = "sector sector--root" if level == 0 else "sector" if node.leaves or node.children else "sector sector--empty"
    arc = element("path", element("title", node.name), class_=kind, d=shape)
    # The list beside the picture has the same links, so these need no tab stop.
    parts = [element("a", arc, href=node.href, tabindex=-1, aria_hidden="true") if labels and node.href else arc]
    if ends and level == 0 and rings > 1:
        parts.append(element("path", class_="sector", d=_sector(start, stop, inner, outermost)))
    if labels and level == 0:
        parts.append(_arc_name(node, start, stop, radius + RING / 2))
    parts += [_arcs(child, layout, inner, level + 1, rings, labels) for child in node.children]
    return element("g", *parts, class_=f"hue-{node.hue}")


def _arc_name(node: Node, start: float, stop: float, radius: float) -> Markup:
    """Return the category's name along its arc, if it fits."""
    if (stop - start) * radius < 7.6 * len(node.name) + 10:
        return Markup("")
    below = math.sin((start + stop) / 2) > 0.15  # there the text runs backwards to stay upright
    first, last, sweep = (stop, start, 0) if below else (start, stop, 1)
    r = radius + (4.5 if below else -4.5)
    line = f"M{_point(first, r)}A{r:g} {r:g} 0 {int(stop - start > math.pi)} {sweep} {_point(last, r)}"
    key = f"arc-{node.id.replace('.', '-')}"
    along = element("textPath", node.name, href=f"#{key}", startOffset="50%", text_anchor="middle")
    return element("path", id=key, d=line, fill="none") + element("text", along, class_="arcname", font_size=13)


def _edge(edge: Edge, layout: _Layout, radius: float) -> Markup:
    """Return a curve that stays at the rim between neighbours and passes near the middle between opposites."""
    a, b = layout.angle[edge.source], layout.angle[edge.target]
    apart = abs(math.remainder(a - b, 2 * math.pi)) / math.pi
    pull = radius * (0.86 - 0.8 * min(1.0, apart * 1.15))
    curve = f"M{_point(a, radius)}C{_point(a, pull)} {_point(b, pull)} {_point(b, radius)}"
    about = {"data_from": edge.source, "data_to": edge.target, "data_type": edge.type, "data_label": edge.label}
    about["data_inverse"] = edge.inverse
    return element("path", class_="edge", **about, d=curve)


def _leaf(leaf: Leaf, hue: int, layout: _Layout, labels: bool) -> Markup:
    angle = layout.angle[leaf.id]
    x, y = _point(angle, RIM).split()
    dot = element("circle", cx=x, cy=y, r=5)
    if not labels:
        return element("g", dot, class_=f"hue-{hue}")
    name = _leaf_name(leaf, angle, layout)
    about = {"data_id": leaf.id, "data_name": leaf.name, "data_year": leaf.year, "data_summary": leaf.summary}
    return element("a", dot, name, class_=f"hue-{hue}", href=leaf.href, data_facets=leaf.facets, **about)


def _leaf_name(leaf: Leaf, angle: float, layout: _Layout) -> Markup:
    """Return the name outside the rim, which reads outwards on the right and inwards on the left."""
    x, y = _point(angle, RIM + NAMES).split()
    flipped = math.cos(angle) < 0
    turn = f"rotate({math.degrees(angle) + (180 if flipped else 0):.2f} {x} {y})"
    anchor, size = "end" if flipped else "start", f"{layout.font:.1f}"
    return element("text", _shown(leaf), transform=turn, x=x, y=y, dy=".35em", text_anchor=anchor, font_size=size)


def _shown(leaf: Leaf) -> str:
    return leaf.name if len(leaf.name) <= LONGEST else leaf.name[: LONGEST - 1] + "…"


def nested(nodes: Sequence[Node]) -> Markup:
    """Return the same tree as a nested list, for phones, screen readers and pages without script."""
    return element("ul", *map(_item, nodes)) if nodes else Markup("")


def _item(node: Node) -> Markup:
    dot = element("span", class_=f"pf-dot hue-{node.hue}")
    name = element("span", dot, " ", element("a", node.name, href=node.href), class_="pf-tree__cat")
    present = [
        element(
            "li", element("a", leaf.name, href=leaf.href), " ", element("span", str(leaf.year), class_="pf-muted"),
            data_leaf=leaf.id,
        )
        for leaf in node.leaves
    ]  # fmt: skip
    inner = [*present, *map(_item, node.children)]
    return element("li", name, element("ul", *inner) if inner else "")
