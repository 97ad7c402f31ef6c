"""Draw a method's tensors to scale, beside a frozen weight of the model where they act on one.

Sizes are those at one location of an example model, at the default setting. All tensors of one picture share a scale.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ..costs.layout import Spot
from ..costs.plan import Plan, Row, in_order
from ..errors import UsageError
from ..knowledge.base import Method
from ..schema.tensors import Tensor
from ._site import Site, View
from ._svg import element
from ._text import count

__all__ = ["to_scale"]

WIDTH, EDGE, LEAST = 372, 104.0, 2.0
"""The width of a picture, the length of the longest side, and the least thickness of a thin tensor."""
GAP, HEAD, LABELS, LETTER = 14.0, 20.0, 30.0, 6.2
"""The gap between tensors, the height of a heading, the height of two lines of labels, the width of a letter."""
MOST_CARDS = 3
"""The number of cards in the stack of a tensor with more than two dimensions."""
TITLES = {
    "site": "One targeted module", "role": "One targeted role, all its layers", "attention": "One attention block",
    "mlp": "One feed-forward block", "layer": "One layer", "model": "Once for the model", "weight": "One weight",
    "bias": "One bias", "norm": "One norm parameter",
}  # fmt: skip
FROZEN, OWN, TRAINED, PART = "frozen", "own", "trained", "part"
WORDS = {
    FROZEN: "frozen weight of the model", OWN: "frozen tensor of the method", TRAINED: "trained",
    PART: "partly trained",
}  # fmt: skip


@dataclass(frozen=True)
class Item:
    """One tensor of a picture."""

    name: str
    shape: tuple[int, ...] | None
    numel: int
    copies: int
    kind: str

    @property
    def sides(self) -> tuple[int, float, float]:
        """The number of cards, the height and the width, in entries. A tensor without a shape is a square."""
        if self.shape is None:
            return 1, math.sqrt(self.numel), math.sqrt(self.numel)
        *cards, height, width = (1, *self.shape, 1) if len(self.shape) == 1 else (1, 1, *self.shape)
        return math.prod(cards), float(height), float(width)

    @property
    def size(self) -> str:
        """The shape in numbers."""
        text = count(self.numel) if self.shape is None else " × ".join(map(count, self.shape)) or "1"
        return f"{self.copies} of {text}" if self.copies != 1 else text


@dataclass(frozen=True)
class Group:
    """The tensors of one scope at one location."""

    title: str
    places: int
    items: tuple[Item, ...]


def to_scale(site: Site, method: Method) -> View | None:
    """Return the picture, its legend and its table; None if the method applies to no example model."""
    for model in site.examples:
        try:
            plan = site.plan(method, model)
            groups = list(_groups(plan, in_order(plan.each(plan.values({})))))
        except UsageError:
            continue
        if groups:
            kinds = [k for k in WORDS if any(i.kind == k for g in groups for i in g.items)]
            return {
                "model": model, "model_name": site.kb.models[model].name, "picture": _picture(groups, method.name),
                "kinds": [{"id": k, "word": WORDS[k]} for k in kinds], "rows": list(_rows(groups)),
            }  # fmt: skip
    return None


def _groups(plan: Plan, spots: Sequence[tuple[Row, Spot]]) -> Iterator[Group]:
    by_scope: dict[str, dict[str, list[tuple[Row, Spot]]]] = {}
    for row, spot in spots:
        by_scope.setdefault(row.piece.tensor.per, {}).setdefault(row.piece.name, []).append((row, spot))
    for scope in (s for s in TITLES if s in by_scope):
        tensors = by_scope[scope]
        paths = {path for found in tensors.values() for row, spot in found for path, _ in row.locations(spot)}
        first = next(iter(tensors.values()))[0][1]
        wide, high = (first.dims.get(name, 0) for name in ("d_in", "d_out"))
        items = []
        if scope in ("site", "role") and wide:
            items.append(Item("weight", (high, wide), high * wide, 1, FROZEN))
        for name, found in tensors.items():
            row, spot = next((pair for pair in found if pair[1].path == first.path), found[0])
            items.append(Item(name, plan.shape(row, spot), row.count, row.copies, _kind(row.piece.tensor)))
        yield Group(TITLES[scope], len(paths), tuple(items))


def _kind(tensor: Tensor) -> str:
    if isinstance(tensor.trained, bool):
        return TRAINED if tensor.trained else OWN
    return PART


def _rows(groups: Sequence[Group]) -> Iterator[View]:
    for group in groups:
        for item in group.items:
            yield {
                "where": group.title, "places": count(group.places), "name": item.name, "size": item.size,
                "numel": count(item.numel * item.copies), "kind": WORDS[item.kind],
            }  # fmt: skip


def _picture(groups: Sequence[Group], name: str) -> Markup:
    longest = max(max(item.sides[1:]) for group in groups for item in group.items)
    parts, y = list[Markup](), 0.0
    for group in groups:
        like = f" (one of {count(group.places)})" if group.places > 1 else ""
        parts.append(element("text", f"{group.title}{like}", class_="title", x=0, y=_at(y + 12)))
        y += HEAD
        for row in _packed(group.items, longest):
            tall = max(height for _, _, height in row)
            x = 0.0
            for item, width, height in row:
                parts.append(_item(item, x, y + tall - height, longest))
                x += width + GAP
            y += tall + LABELS
        y += 8
    said = "; ".join(
        f"{group.title}: " + ", ".join(f"{i.name} {i.size} {WORDS[i.kind]}" for i in group.items) for group in groups
    )
    svg = {"class_": "pf-scale", "viewBox": f"0 0 {WIDTH} {_at(y - 8)}", "role": "img"}
    return element("svg", *parts, xmlns="http://www.w3.org/2000/svg", aria_label=f"Tensors of {name}. {said}", **svg)


def _packed(items: Sequence[Item], longest: float) -> Iterator[list[tuple[Item, float, float]]]:
    """Yield rows of tensors that fit the width, each tensor with the width and height that it takes."""
    row, used = list[tuple[Item, float, float]](), 0.0
    for item in items:
        cards, height, width = _drawn(item, longest)
        wide = max(width + 3 * cards, LETTER * max(len(item.name), len(item.size)))
        if row and used + wide > WIDTH:
            yield row
            row, used = [], 0.0
        row.append((item, wide, height + 3 * cards))
        used += wide + GAP
    yield row


def _drawn(item: Item, longest: float) -> tuple[int, float, float]:
    """Return the number of further cards, the height and the width in the picture's units."""
    cards, height, width = item.sides
    scale = EDGE / longest
    return min(cards, MOST_CARDS) - 1, max(LEAST, height * scale), max(LEAST, width * scale)


def _item(item: Item, x: float, y: float, longest: float) -> Markup:
    cards, height, width = _drawn(item, longest)
    shapes = [
        element("rect", x=_at(x + 3 * i), y=_at(y + 3 * (cards - i)), width=_at(width), height=_at(height))
        for i in range(cards, -1, -1)
    ]
    below = y + height + 3 * cards
    labels = [
        element("text", item.name, class_="name", x=_at(x), y=_at(below + 12)),
        element("text", item.size, class_="size", x=_at(x), y=_at(below + 24)),
    ]
    return element("g", *shapes, *labels, class_=item.kind)


def _at(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
