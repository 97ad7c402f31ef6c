"""Draw the locations in a transformer block where a method acts, from the scopes and roles of its tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product

from markupsafe import Markup

from ..backbones.modules import role_matches
from ..costs.layout import Part
from ..knowledge.base import Method
from ..schema.memory import Act
from ..schema.tensors import Targets, Tensor
from ._svg import element

__all__ = ["WORDS", "Acts", "acts", "picture", "sample"]

Box = tuple[float, float, float, float]

BOXES: dict[str, tuple[str, Box]] = {
    "embed.token": ("embed", (8, 8, 84, 28)),
    "norm.attn": ("norm", (84, 94, 50, 28)),
    "attn.q": ("q", (160, 62, 54, 26)),
    "attn.k": ("k", (160, 95, 54, 26)),
    "attn.v": ("v", (160, 128, 54, 26)),
    "attn.o": ("o", (338, 95, 54, 26)),
    "norm.mlp": ("norm", (84, 222, 50, 28)),
    "mlp.gate": ("gate", (160, 207, 54, 26)),
    "mlp.up": ("up", (160, 240, 54, 26)),
    "mlp.down": ("down", (338, 223, 54, 26)),
    "head.lm": ("head", (8, 350, 84, 28)),
}
"""The drawn roles: name and x, y, width, height."""
HEADS = ("head.lm", "head.image", "head.text")
"""The roles that the box of the output head stands for."""
NAMES = {
    "embed.token": "embeddings", "norm.attn": "norm before attention", "attn.q": "queries", "attn.k": "keys",
    "attn.v": "values", "attn.o": "attention output", "norm.mlp": "norm before the feed-forward block",
    "mlp.gate": "gate", "mlp.up": "up-projection", "mlp.down": "down-projection", "head.lm": "output head",
    "kv": "keys and values of attention", "attention": "attention block", "mlp": "feed-forward block",
    "layer": "every layer", "side": "a network beside the layers", "prompt": "input sequence",
    "model": "shared by the whole model",
}  # fmt: skip
LINEAR = frozenset(r for r in BOXES if r.startswith(("attn.", "mlp.")))
WHOLES = (
    (frozenset(BOXES), "every parameter"),
    (LINEAR | {"norm.attn", "norm.mlp"}, "every parameter of the layers"),
    (LINEAR, "all linear modules"),
)
"""Sets of boxes with a common name."""
SIGNS = {"added": "+", "scaled": "×", "masked": "01"}
WORDS = {
    "added": "added", "scaled": "multiplies", "masked": "masked", "changed": "changed in place",
    "prepended": "put before", "bias": "bias changed", "optional": "can also be chosen",
}  # fmt: skip
WIDTH, HEIGHT = 470, 386
FLOWS = (
    "M50 36V350", "M50 108H84", "M134 108C148 108 146 75 160 75", "M134 108H160", "M134 108C148 108 146 141 160 141",
    "M214 75C232 75 230 96 246 98", "M214 108H246", "M214 141C232 141 230 120 246 118", "M308 108H338",
    "M392 108H410V176H56", "M50 236H84", "M134 236C148 236 146 220 160 220", "M134 236C148 236 146 253 160 253",
    "M214 220C232 220 230 232 246 233", "M214 253C232 253 230 241 246 240", "M308 236H338", "M392 236H410V304H56",
)  # fmt: skip
"""The lines of the frozen network: the residual stream and the two branches."""


@dataclass
class Acts:
    """The locations where a method acts -> kinds of action.

    A location is a drawn role, or a key of `NAMES` for a whole block.
    """

    marks: dict[str, set[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    conditions: list[str] = field(default_factory=list)

    def add(self, place: str, kind: str) -> None:
        """Add a mark."""
        self.marks.setdefault(place, set()).add(kind)

    def once(self, text: str, among: list[str]) -> None:
        """Add a remark or condition, if it is new."""
        if text not in among:
            among.append(text)

    @property
    def kinds(self) -> list[str]:
        """The kinds in use, in the order of the legend."""
        present = set().union(*self.marks.values()) if self.marks else set()
        return [kind for kind in WORDS if kind in present]

    def places(self, kind: str) -> list[str]:
        """Return the names of the locations with a kind of mark."""
        marked = {p for p in NAMES if kind in self.marks.get(p, ())}
        found = []
        for every, word in WHOLES:
            if every <= marked:
                found.append("every bias" if kind == "bias" else word)
                marked -= every
        return found + [NAMES[p] for p in NAMES if p in marked]

    @property
    def sentence(self) -> str:
        """The picture in words, for screen readers."""
        parts = [f"{WORDS[kind].capitalize()}: {', '.join(self.places(kind))}." for kind in self.kinds]
        parts += [f"{n.capitalize()}." for n in self.notes]
        if self.conditions:
            start = "Only where" if len(self.conditions) == 1 else "Parts of it only where"
            parts.append(f"{start} {'; '.join(self.conditions)}.")
        return " ".join(parts)


def acts(method: Method) -> Acts:
    """Return the marks of all tensors. Tensors that are discarded after training are omitted if others remain."""
    found, parts = Acts(), method.parts
    everything = [(part, t) for part in parts for t in part.entry.tensors.values()]
    kept = [(p, t) for p, t in everything if t.served != "absent" or any(s.as_ != "none" for s in t.stored)]
    for part, tensor in kept or everything:
        _tensor(found, parts, part, tensor)
    if {p for p, kinds in found.marks.items() if kinds & {*SIGNS, "prepended"}} == {"model"}:
        for part, role in product(parts, BOXES):  # what the model shares is used where the operations are
            if any(one.per == "site" and _wanted(one, role) for one in _operations(part)):
                found.add(role, _kind(part, next(iter(part.entry.tensors.values()))))
    for role, kinds in found.marks.items():
        if len(kinds) > 1 and role in BOXES:
            kinds.discard("optional")
    return found


def _tensor(found: Acts, parts: Sequence[Part], part: Part, tensor: Tensor) -> None:
    kind = _kind(part, tensor)
    for role in tensor.roles or []:
        if ":" in role:
            found.once(f"in the {role.partition(':')[0]} only", found.notes)
    if tensor.where is not None:
        found.once(tensor.where.source, found.conditions)
    if tensor.per in ("site", "role"):
        _sites(found, parts, part, tensor, kind)
    elif tensor.per in ("weight", "bias", "norm"):
        for role in BOXES:
            norm = role.startswith("norm.")
            if _wanted(tensor, role) and (tensor.per != "norm" or norm):
                unbiased = tensor.per == "bias" and not role.startswith(("embed", "head"))
                if tensor.per != "bias" or unbiased:
                    found.add(role, "bias" if tensor.per == "bias" else kind)
    else:
        for place in _places(parts[0].entry.targets or part.entry.targets, part, tensor):
            found.add(place, "prepended" if place in ("kv", "prompt") else kind)


def _kind(part: Part, tensor: Tensor) -> str:
    if tensor.selecting:
        return "changed"
    change = part.entry.facets.get("change", [])
    if any(s.as_ == "bits" for s in tensor.stored):
        return "masked"
    if "added" in change or "mixed" in change:
        return "added"
    return next((k for k in ("scaled", "masked") if k in change), "added")


def _wanted(placed: Tensor | Act, role: str) -> bool:
    return placed.roles is None or any(role_matches(pattern, role, "decoder") for pattern in _plain(placed.roles))


def _operations(part: Part) -> list[Act]:
    return part.entry.memory.operations if part.entry.memory is not None else []


def _plain(roles: Sequence[str]) -> Iterator[str]:
    """Yield the patterns without their stacks."""
    yield from (role.rpartition(":")[2] for role in roles)


def _sites(found: Acts, parts: Sequence[Part], part: Part, tensor: Tensor, kind: str) -> None:
    targets = parts[0].entry.targets or part.entry.targets
    if targets is None:
        return
    for role in BOXES:
        meant = [one for one in (HEADS if role in HEADS else (role,)) if _wanted(tensor, one)]
        if any(role_matches(p, one, "decoder") for p in _plain(targets.default) for one in meant):
            found.add(role, kind)
        elif any(role_matches(p, one, "decoder") for p in _plain(targets.allowed) for one in meant):
            found.add(role, "optional")
    if any(role.startswith("xattn") for role in _plain(targets.default)):
        found.once("cross-attention likewise", found.notes)


def _places(targets: Targets | None, part: Part, tensor: Tensor) -> Iterator[str]:
    """Yield the locations of a tensor that belongs to a block, a layer or the model."""
    facet = part.entry.facets.get("acts_on", [])
    on = {facet} if isinstance(facet, str) else set(facet)
    if targets is None and on and on <= {"weight", "bias", "norm"}:  # a rule over all parameters
        yield from BOXES
    elif _beside(part):
        yield "side"
    elif tensor.per == "model":
        entrance = "prompt" if "prepended" in part.entry.facets.get("change", []) else "embed.token"
        places = [p for p, quantity in ((entrance, "input"), ("head.lm", "output")) if quantity in on and not targets]
        yield from places or ["model"]
    elif tensor.per == "attention":
        # An entry that also changes weights has other layers in these blocks; a prefix has rows as long as a key.
        rows = "weight" not in on or targets is not None or [s.source for s in tensor.shape or []][-1:] == ["d_kv"]
        yield "kv" if "attention_kv" in on and rows else "attention"
    else:
        yield tensor.per


def _beside(part: Part) -> bool:
    """Return True if it has a network of its own: layers beside those of the model, and steps before or after all."""
    own = any(t.per == "layer" for t in part.entry.tensors.values())
    return own and {"layer", "model"} <= {one.per for one in _operations(part)}


def picture(found: Acts) -> Markup:
    """Return the block as inline SVG; the style sheet sets the colours."""
    parts = [
        element("rect", class_="layer", x=22, y=48, width=402, height=290, rx=10),
        element("text", "one layer of N", class_="small end", x=414, y=330),
        *(element("path", class_="flow", d=d) for d in FLOWS),
        *(element("circle", class_="plus", cx=50, cy=y, r=7) for y in (176, 304)),
        *(element("path", class_="cross", d=f"M46 {y}H54M50 {y - 4}V{y + 4}") for y in (176, 304)),
        _round("attend", 246, 82, 62, 52), _round("activate", 246, 219, 62, 34),
    ]  # fmt: skip
    parts += [_box(found.marks.get(role, set()), *spec) for role, spec in BOXES.items()]
    parts += [draw(kind) for place, draw in _BLOCKS.items() for kind in sorted(found.marks.get(place, ()))]
    label = f"Where in a transformer block it acts. {found.sentence}"
    svg = {"class_": "pf-block", "viewBox": f"0 0 {WIDTH} {HEIGHT}", "role": "img", "aria_label": label}
    return element("svg", *parts, xmlns="http://www.w3.org/2000/svg", **svg)


def sample(kind: str) -> Markup:
    """Return the legend's sample of a kind of mark, 24 wide and 16 high."""
    if kind in SIGNS:
        return _tab(SIGNS[kind], 14, 7)
    if kind == "prepended":
        return _squares([(1, 3.5), (14, 3.5)])
    if kind == "bias":
        return element("g", element("circle", class_="bias", cx=12, cy=8, r=5), class_="box")
    return element("g", element("rect", x=2, y=2, width=20, height=12, rx=3), class_=f"box {kind}")


def _round(name: str, x: float, y: float, width: float, height: float) -> Markup:
    shape = element("rect", class_="op", x=x, y=y, width=width, height=height, rx=min(height / 2, 17))
    return shape + element("text", name, class_="op", x=x + width / 2, y=y + height / 2, dy=".35em")


def _box(kinds: set[str], name: str, box: Box) -> Markup:
    x, y, width, height = box
    state = next((k for k in ("changed", "masked", "optional") if k in kinds), "frozen")
    state = "touched" if state == "frozen" and kinds & set(SIGNS) else state
    parts = [
        element("rect", x=x, y=y, width=width, height=height, rx=5),
        element("text", name, x=x + width / 2, y=y + height / 2, dy=".35em"),
    ]
    parts += [_tab(SIGNS[k], x + width, y) for k in SIGNS if k in kinds]
    if "bias" in kinds:
        parts.append(element("circle", class_="bias", cx=x + width - 3, cy=y + height - 2, r=5))
    return element("g", *parts, class_=f"box {state}")


def _tab(sign: str, x: float, y: float) -> Markup:
    """Return a small label over a corner."""
    shape = element("rect", class_="mark", x=x - 12, y=y - 6, width=20, height=14, rx=7)
    return shape + element("text", sign, class_="sign", x=x - 2, y=y + 1, dy=".35em")


def _adapter(x: float, y: float) -> Markup:
    """Return a network with a narrow middle, on a line that runs from right to left."""
    d = f"M{x - 24} {y - 12}L{x} {y - 4}L{x + 24} {y - 12}V{y + 12}L{x} {y + 4}L{x - 24} {y + 12}Z"
    return element("path", class_="mark", d=d)


def _on_line(y: float, kind: str) -> Markup:
    shape = _adapter(236, y)
    return shape + element("text", SIGNS.get(kind, ""), class_="small accent", x=236, y=y + 25)


def _squares(places: Sequence[tuple[float, float]]) -> Markup:
    return Markup("").join(element("rect", class_="mark", x=x, y=y, width=9, height=9, rx=2) for x, y in places)


def _prefix(kind: str) -> Markup:
    name = element("text", "prefix", class_="small accent", x=231, y=168)
    return _squares([(220, y) for y in (96, 109, 129, 142)]) + name


def _prompt(kind: str) -> Markup:
    squares = _squares([(102 + 13 * i, 17.5) for i in range(4)])
    return squares + element("text", "trained positions", class_="small accent start", x=160, y=26.5)


def _layer(kind: str) -> Markup:
    turned = element("g", _adapter(0, 0), transform="translate(50 324.5) rotate(90) scale(.5)")
    return turned + element("text", "in every layer", class_="small accent start", x=70, y=331)


def _side(kind: str) -> Markup:
    lane = element("rect", class_="mark", x=438, y=48, width=24, height=290, rx=8)
    words = element("text", "side network", class_="sign", transform="translate(450 193) rotate(90)", dy=".35em")
    links = [element("path", class_="link", d=f"M424 {y}H438") for y in (108, 236, 304)]
    return lane + words + Markup("").join(links)


def _model(kind: str) -> Markup:
    shape = element("rect", class_="mark", x=404, y=15, width=14, height=14, rx=3)
    return shape + element("text", "shared by all layers", class_="small accent end", x=398, y=26.5)


_BLOCKS = {
    "kv": _prefix, "attention": lambda kind: _on_line(176, kind), "mlp": lambda kind: _on_line(304, kind),
    "layer": _layer, "side": _side, "prompt": _prompt, "model": _model,
}  # fmt: skip
