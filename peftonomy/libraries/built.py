"""Count what a library builds from a configuration that selects locations instead of module names.

The library's file declares its own tensors (`Library.builds`) and its locations in each model family
(`Library.hosts`). The counts follow from the configuration and the model alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, get_args

from ..backbones.backbone import Inventory
from ..backbones.modules import OUTPUT_BIAS, OUTPUT_EMBEDDING, Block, SiteGroup, joined, role_matches, site_of
from ..errors import ConfigError, near
from ..schema.builds import Place
from ..schema.names import DIMS, MODEL_NAMES

if TYPE_CHECKING:
    from ..schema.builds import Build, Built, Host
    from ..schema.library import Library

from .arguments import numbers
from .extras import Extra

__all__ = ["LOCAL", "Counted", "Location", "Piece", "heads_trained", "known_names", "refusal"]

WHOLE = "all"
"""The part of `Host.linear` that is selected whatever the configuration picks."""


NUMERIC: dict[str, tuple[type, ...]] = {"int": (int,), "float": (float,), "number": (int, float)}
OTHERS: dict[str, type] = {"bool": bool, "null": type(None), "text": str}
"""The kinds of plain values in `Build.values`, with their types."""


OF_LINEAR = frozenset({"d_in", "d_out", "heads", "fused", "conv1d"})
LOCAL = {"prefix": frozenset({"n"}), "linear": OF_LINEAR, "first_linear": OF_LINEAR}
"""The names that a formula may use at a location only."""
SAID = {
    "bool": "true or false", "int": "a whole number", "float": "a number with a decimal point", "number": "a number",
    "null": "null", "text": "a text", "layers": "a list of layer numbers", "names": "a list of texts",
    "map": "a mapping from layer numbers to numbers",
}  # fmt: skip
"""The kinds of values in `Build.values`, as messages name them."""


def refusal(source: str, field: str, found: object, expected: str, known: Any = ()) -> ConfigError:
    """Return the error for a field, with the closest known name if `found` is a text."""
    matches = near(found, known) if isinstance(found, str) and known else []
    text = found if isinstance(found, str) else "null" if found is None else str(found)
    hint = f"did you mean {' or '.join(matches)}?" if matches else ""
    return ConfigError(source, field, text, expected, hint)


def fits(value: Any, kind: str) -> bool:
    """Return True if a value is of a kind in `Build.values`, or equals a word there."""
    if kind in NUMERIC:
        return type(value) in NUMERIC[kind] and math.isfinite(value)
    if kind in ("layers", "names"):
        item = int if kind == "layers" else str
        return isinstance(value, list) and all(type(one) is item for one in value)
    if kind == "map":
        return isinstance(value, Mapping) and all(fits(one, "number") for one in value.values())
    return isinstance(value, OTHERS[kind]) if kind in OTHERS else isinstance(value, str) and value == kind


@dataclass(frozen=True)
class Location:
    """A place where tensors may be built: `count` times, in one layer or in the whole model."""

    per: str
    known: Mapping[str, Any]
    layer: int | None = None
    site: SiteGroup | None = None


@dataclass(frozen=True)
class Piece:
    """The tensors at one location, as numbers of parameters and of values in the file."""

    per: str
    count: int
    trained: int
    saved: int
    shared: bool
    location: Location


class Known(dict[str, Any]):
    """Names for formulas; a computed value is filled in when a formula first names it."""

    def __init__(self, names: Mapping[str, Any], build: Build):
        super().__init__(names)
        self.build = build

    def __missing__(self, name: str) -> Any:
        self[name] = self.build.let[name](self)
        return self[name]

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or name in self.build.let


class Counted:
    """One configuration of one type, counted on a model. Raises ConfigError.

    kind: the type whose tensors are built. values: all arguments. remarks: sentences on arguments.
    """

    def __init__(self, library: Library, source: str, kind: str, values: Mapping[str, Any], inventory: Inventory):
        self.library, self.source, self.kind, self.values, self.inventory = library, source, kind, values, inventory
        self.build = library.builds[kind]
        self.host = host_of(library, source, inventory)
        self._accepted()
        if self.build.needs not in self.host.methods:
            expected = f"another configuration: {library.name} has no {self.build.needs} for {self.family}"
            raise self.refuse(library.type_key, library.types[kind].saved or kind, expected)
        self._names: dict[int, Known] = {}
        self._required()
        self.pieces = list(self._pieces())
        self.remarks = [r.text for r in self.build.remarks if r.when(self.known)]

    @property
    def family(self) -> str:
        return self.inventory.backbone.family.model_type

    def refuse(self, field: str, found: object, expected: str) -> ConfigError:
        return refusal(self.source, field, found, expected)

    # Values

    def _accepted(self) -> None:
        for name, kinds in self.build.values.items():
            value = self.values[name]
            if not any(fits(value, kind) for kind in kinds):
                words = [kind for kind in kinds if kind not in SAID]
                plain = [*(SAID[kind] for kind in kinds if kind in SAID), *words]
                expected = f"one of {', '.join(plain)}" if words else " or ".join(plain)
                raise refusal(self.source, name, value, expected, words)

    @cached_property
    def known(self) -> Known:
        """The names for formulas outside of any location."""
        names: dict[str, Any] = {**self.inventory.dims, **numbers(self.values)}
        for name, value in self.values.items():
            names |= {
                f"given_{name}": value is not None, f"mapped_{name}": isinstance(value, Mapping),
                f"float_{name}": isinstance(value, float),
            }  # fmt: skip
        methods = {method for host in self.library.hosts.values() for method in host.methods}
        names |= {f"supports_{method}": method in self.host.methods for method in methods}
        names |= {"hooked": self.host.hooked, "fused": self.host.fused is not None}
        names["head_width"] = names["d_model"] // names["n_heads"]
        if self.host.head_width is not None:
            names["head_width"] = self.host.head_width(names)
        names |= {f"n_{per}": len(found) for per, found in self._found.items()}
        return Known(names, self.build)

    def _at(self, location: Location) -> Known:
        """Return the names for formulas at a location, with the layer's own value of an argument that is a mapping."""
        found = self._names.get(id(location))
        if found is None:
            found = self._names[id(location)] = self._named(location)
        return found

    def _named(self, location: Location) -> Known:
        own = dict(location.known)
        for name, value in self.values.items():
            if isinstance(value, Mapping) and location.layer is not None:
                chosen = value.get(str(location.layer), value.get("default"))
                if chosen is None:
                    raise self.refuse(name, value, f"a value for layer {location.layer}, or a default")
                own[name] = chosen
        plain = {name: value for name, value in self.known.items() if name not in self.build.let}
        return Known({**plain, **own}, self.build)

    def _required(self) -> None:
        for rule in self.build.requires:
            places = [self.known] if rule.per is None else [self._at(one) for one in self._found.get(rule.per, ())]
            if not all(rule.holds(known) for known in places):
                raise self.refuse(rule.argument, self.values[rule.argument], rule.expected)

    # Locations

    def _there(self, layer: int) -> bool:
        """Return True if the configuration includes a layer, numbered over all stacks."""
        skipped = self.values[self.build.skips] if self.build.skips else []
        only = self.values[self.build.layers] if self.build.layers else []
        return layer not in skipped and (not isinstance(only, list) or not self.build.layers or layer in only)

    @cached_property
    def _starts(self) -> dict[str, int]:
        """The number of each stack's first layer."""
        starts, first = {}, 0
        for name in self.inventory.stacks:
            starts[name] = first
            first += self.inventory.backbone.layers[name]
        return starts

    @cached_property
    def _found(self) -> dict[str, list[Location]]:
        """Every location that the configuration selects."""
        linear = list(self._linear())
        gates = list(self._gates())
        counts: dict[str, int] = {}
        for key, _ in gates:
            counts[key] = counts.get(key, 0) + 1
        return {
            "model": [Location("model", {})],
            "block": list(self._blocks()),
            "layer": [Location("layer", {}, n) for b in self._of("layer") for n in self._layers(b)],
            "gate": [location for _, location in gates],
            "prefix": [Location("prefix", {"n": n}) for n in counts.values()],
            "linear": linear,
            "first_linear": linear[:1],
        }

    def _of(self, kind: str) -> list[Block]:
        return [block for block in self.inventory.blocks if block.kind == kind]

    def _layers(self, block: Block) -> Iterator[int]:
        first = self._starts[block.stack]
        yield from (first + n for n in block.layers if self._there(first + n))

    def _blocks(self) -> Iterator[Location]:
        for block in (*self._of("attention"), *self._of("mlp")):
            for argument, roles in self.host.blocks.items():
                if self.values.get(argument) and any(role_matches(role, block.name, block.stack) for role in roles):
                    yield from (Location("block", {}, n) for n in self._layers(block))

    def _gates(self) -> Iterator[tuple[str, Location]]:
        """Yield each attention that gets prefixes, with their key."""
        for block in self._of("attention"):
            patterns = self.host.prefixes.items()
            key = next((key for role, key in patterns if role_matches(role, block.name, block.stack)), None)
            if key is not None and self.values.get(key, True):
                yield from ((key, Location("gate", {}, n)) for n in self._layers(block))

    def _linear(self) -> Iterator[Location]:
        """Yield the selected linear modules layer by layer, in the network's order within a layer."""
        found = [
            Location("linear", known, self._starts[site.stack] + layer, replace(site, layers=(layer,)))
            for site, known in self._selected()
            for layer in site.layers
            if self._there(self._starts[site.stack] + layer)
        ]
        order = {id(module): i for i, module in enumerate(self.inventory.modules)}
        found.sort(key=lambda one: (one.layer, order[id(one.site.module)] if one.site else 0))
        yield from found

    def _selected(self) -> Iterator[tuple[SiteGroup, dict[str, Any]]]:
        for argument, parts in self.host.linear.items():
            if not self.values.get(argument):
                continue
            picked = set(self.values[self.build.picks] if self.build.picks else parts)
            chosen = [part for part in parts if part == WHOLE or part in picked]
            if self.host.fused is not None and WHOLE not in parts:
                yield from self._fused(self.host.fused, len(chosen), len(parts))
                continue
            roles = [role for part in chosen for role in parts[part]]
            for module in self.inventory.modules:
                if any(role_matches(role, module.role, module.stack) for role in roles):
                    site = site_of(module, module.layers)
                    yield site, self._dims(site, site.d_out, 1)

    def _fused(self, role: str, chosen: int, parts: int) -> Iterator[tuple[SiteGroup, dict[str, Any]]]:
        """Yield the module that contains queries, keys and values, with the number of parts to adapt."""
        for module in self.inventory.modules:
            if role_matches(role, module.role, module.stack):
                site = site_of(module, module.layers)
                yield site, self._dims(site, module.d_out // parts * chosen, chosen)

    def _dims(self, site: SiteGroup, d_out: int, heads: int) -> dict[str, Any]:
        fused = site.module.role == self.host.fused
        conv1d = site.module.kind == "conv1d"
        return {"d_in": site.d_in, "d_out": d_out, "heads": heads, "fused": fused, "conv1d": conv1d}

    # Tensors

    def _pieces(self) -> Iterator[Piece]:
        for tensor in self.build.tensors:
            for location in self._found[tensor.per]:
                if piece := self._piece(tensor, location):
                    yield piece

    def _piece(self, tensor: Built, location: Location) -> Piece | None:
        known = self._at(location)
        if tensor.when is not None and not tensor.when(known):
            return None
        count = int(tensor.count(known))
        saved = count if tensor.saved is None else int(tensor.saved(known))
        return Piece(tensor.per, count, count if tensor.trained else 0, saved, tensor.shared, location)

    @property
    def sites(self) -> list[SiteGroup]:
        """The adapted linear modules, or their adapted parts, each with its layers."""
        together: dict[tuple[int, str], SiteGroup] = {}
        for location in self._found["linear"]:
            for site in self._parts(location):
                key = id(site.module), site.role
                layers = together[key].layers if key in together else ()
                together[key] = replace(site, layers=(*layers, *site.layers))
        return list(together.values())

    def limited(self, sites: Iterable[SiteGroup]) -> list[SiteGroup]:
        """Return the sites without the layers that the configuration leaves out."""
        cut = [(site, tuple(n for n in site.layers if self._there(self._starts[site.stack] + n))) for site in sites]
        return [replace(site, layers=layers) for site, layers in cut if layers]

    def _parts(self, location: Location) -> Iterator[SiteGroup]:
        """Yield the module at a location; of a fused module the selected parts."""
        site = location.site
        if site is None:
            return
        if not location.known["fused"] or location.known["heads"] == len(site.module.slices):
            yield site
            return
        picked = self.values[self.build.picks] if self.build.picks else []
        roles = [role for parts in self.host.linear.values() for part in picked for role in parts.get(part, ())]
        for role, start, stop in site.module.slices:
            if role in roles:
                yield site_of(site.module, site.layers, role, start, stop)

    @property
    def rooms(self) -> list[tuple[str, int]]:
        """The blocks, by argument and layer. A model has room for one configuration at each."""
        numbers_ = [n for block in self._of("layer") for n in self._layers(block)]
        return [(name, n) for name in self.build.blocks if self.values[name] for n in numbers_]


def known_names(library: Library, kind: str, per: str | None = None) -> set[str]:
    """Return the names that the formulas of a type may use outside of any location, or at one of a kind."""
    values = library.defaults(kind)
    found = {*MODEL_NAMES, *DIMS, *values, *library.builds[kind].let, "hooked", "fused", "head_width"}
    found |= {f"{word}_{name}" for word in ("given", "mapped", "float") for name in values}
    found |= {f"supports_{method}" for host in library.hosts.values() for method in host.methods}
    return found | {f"n_{place}" for place in get_args(Place)} | LOCAL.get(per or "", frozenset())


def host_of(library: Library, source: str, inventory: Inventory) -> Host:
    """Return the locations in the models of a family. Raises ConfigError if the library has none."""
    family = inventory.backbone.family.model_type
    if family not in library.hosts:
        expected = f"a model of a family that {library.name} supports: {', '.join(library.hosts)}"
        raise refusal(source, "model", family, expected, library.hosts)
    host = library.hosts[family]
    while host.like is not None:
        above = library.hosts[host.like]
        host = above.model_copy(update={name: getattr(host, name) for name in host.model_fields_set - {"like"}})
    return host


def heads_trained(inventory: Inventory) -> Iterator[Extra]:
    """Yield the modules outside the base model, which stay trainable, without the output embedding.

    If the class has no base model apart from itself, the library freezes everything.
    """
    prefix = inventory.backbone.family.tasks[inventory.task].prefix
    for module in inventory.modules:
        frozen = module.role in (OUTPUT_EMBEDDING, OUTPUT_BIAS)
        if prefix and not joined(module.path, "").startswith(prefix) and module.parameters and not frozen:
            yield Extra(f"head: {module.path}", module.numel, 0, 0)
