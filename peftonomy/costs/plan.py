"""A method laid out on a model: everything that does not depend on the hyperparameters, computed once.

A `Plan` contains the locations of every tensor, with the formulas compiled and the dimensions of those locations filled
in. A query then only inserts the hyperparameters, which takes microseconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from ..backbones.backbone import Inventory
from ..backbones.modules import Module, SiteGroup, role_matches, totals
from ..errors import FormulaError, UnknownName, UsageError, chosen, shown
from ..formula import Formula
from ..schema.base import Value
from ..schema.tensors import Hyperparameter, Tensor
from .cost import Cost, TensorCost
from .layout import NamedSites, Part, Spot, SpotGroup, Suffixes, sites, spot_groups
from .measure import HELD, Measure
from .values import coerced

__all__ = ["BYTES", "Place", "Plan", "Row", "in_order"]

BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
INDEX_BYTES = 4
"""Bytes of one stored position (int32)."""
NOTHING: Mapping[str, Any] = {}
EXACT = 2**53
"""The limit for counts. Below it, JavaScript is exact too."""


@dataclass(frozen=True, slots=True)
class Place:
    """One declared tensor at one location in the network.

    `path` is the tensor's module ("" for the model, or for a feed-forward block), or for a selecting tensor the
    parameter's own name. `start` and `stop` give the slice of a fused module's output. There are `copies` tensors of
    `count` entries.
    """

    tensor: str
    spec: Tensor
    path: str
    role: str
    stack: str
    layer: int | None
    start: int
    stop: int
    d_in: int
    d_out: int
    shape: tuple[int, ...] | None
    count: int
    copies: int
    known: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """The names for formulas at this location: dimensions of the model and of the location, and hyperparameters."""


@dataclass(slots=True)
class Piece:
    """A tensor of one part of a method, at equal locations."""

    part: int
    name: str
    measure: Measure
    group: SpotGroup
    own: Mapping[str, Value]
    """Hyperparameters with their own values at these locations."""

    @property
    def tensor(self) -> Tensor:
        return self.measure.tensor


@dataclass(slots=True)
class Row:
    """A piece with the hyperparameters inserted: `n` tensors of `count` entries, and their share of the ledgers.

    copies: the number of tensors at each location. layers: the layers in which the tensor exists, if not all. The
    fields after it are the kinds of HELD.
    """

    piece: Piece
    args: tuple[Any, ...]
    count: int
    n: int
    trained: int
    copies: int = 1
    layers: frozenset[int] | None = None
    values: int = 0
    indices: int = 0
    bits: int = 0
    shared: int = 0
    roles: tuple[str, ...] = ()

    @property
    def learns(self) -> bool:
        """True if training updates the tensor, or a part of a selected parameter."""
        tensor = self.piece.tensor
        return tensor.trained is not False and (self.trained > 0 or tensor.selecting)

    def spots(self) -> Iterator[tuple[Spot, int]]:
        """Yield each spot where the tensor exists, with the number of tensors there."""
        for _, spot in self.piece.group.spots:
            n = spot.n if self.layers is None else len(self.layers.intersection(spot.layers))
            if n:
                yield spot, n * self.copies

    def locations(self, spot: Spot) -> Iterator[tuple[str, int | None]]:
        """Yield the module's path and the layer of each location of a spot where the tensor exists."""
        path = spot.path
        for layer in spot.layers or (None,):
            if self.layers is None or layer in self.layers:
                yield path if layer is None else path.replace("{layer}", str(layer)), layer

    @property
    def kept(self) -> int:
        """The entries that remain at inference, as values or (if stored so) as bits."""
        return self.count * self.n if self.piece.tensor.served == "kept" else 0


class Plan:
    """A method on an inventory with chosen targets. `Method.plan` creates it."""

    def __init__(
        self,
        parts: tuple[Part, ...],
        inventory: Inventory,
        targets: tuple[str, ...] | None = None,
        target_modules: Suffixes | None = None,
        chosen: NamedSites | None = None,
        wider: Mapping[str, Formula] = NOTHING,
    ):
        """`wider`: domains of a library that replace those of the entry."""
        self.wider = wider
        self.parts, self.inventory, self.target_modules = parts, inventory, target_modules
        self.entry, self.id = parts[0].entry, parts[0].entry.id
        self.chosen = chosen
        self.memo: dict[str, Any] = {}
        """A cache for the packages above: values computed once for this plan, each under its own name."""
        if (targets or target_modules) and not any(p.entry.targets for p in self.parts):
            raise UsageError(f"{self.id} has no targets: it does not act on chosen linear modules")
        self.sites = [
            sites(self.parts, part, inventory, targets, target_modules)
            if chosen is None
            else list(chosen.sites if part.entry.targets else ())
            for part in self.parts
        ]
        self.targets = targets or tuple(dict.fromkeys(site.role for group in self.sites for site in group))
        self.common: dict[str, Any] = {
            **inventory.dims,
            "backbone": inventory.backbone.parameters,
            **totals([site for group in self.sites for site in group]),
        }
        self.pieces: list[Piece] = []
        for index, part in enumerate(self.parts):
            for name, measured in part.measures.items():
                label = part.prefix + name
                found = self._groups(index, label, measured)
                self.pieces += [Piece(index, label, measured, where, own) for where, own in found]
        self._check_all_used()
        self.shares = any(measured.across for part in self.parts for measured in part.measures.values())

    def _groups(self, index: int, name: str, measured: Measure) -> Iterable[tuple[SpotGroup, Mapping[str, Value]]]:
        """Return the locations of a part's tensor, with the hyperparameters that have their own values there."""
        if self.chosen is not None:
            return self.chosen.spot_groups(name, measured, self.inventory, self.sites[index])
        return [(where, NOTHING) for where in spot_groups(measured, self.inventory, self.sites[index])]

    def _check_all_used(self) -> None:
        """Raise UsageError if the method has no locations, or if no tensor acts on a targeted module."""
        label = self.inventory.backbone.id
        if not self.pieces:
            if self.entry.properties.head_alone and self.common["n_labels"]:
                return
            raise UsageError(f"{self.id} finds nothing to act on in {label} (task {self.inventory.task})")
        for index, (part, group) in enumerate(zip(self.parts, self.sites, strict=True)):
            own = part.measures.values()
            if any(m.tensor.per == "site" for m in own) and not any(m.everywhere for m in own):
                found = [piece.group for piece in self.pieces if piece.part == index]
                used = {id(spot.source) for where in found for _, spot in where.spots}
                for site in group:
                    if id(site) not in used:
                        where = f"{site.module.path} (role {site.role}) of {label}"
                        raise UsageError(f"no tensor of {self.id} acts on {where}; name other targets")

    def values(self, given: Mapping[str, Any]) -> dict[str, Value]:
        """Return all hyperparameters, defaults filled in, each checked against its domain. Raises UsageError."""
        named = self.named(given)
        specs = self.entry.hyperparameters
        filled = {n: coerced(n, spec, named[n]) if n in named else self.default(spec) for n, spec in specs.items()}
        arguments = tuple(filled.values())
        for name, domain, holds in self.parts[0].domains:
            try:
                (fine,) = holds(self.common, {}, *arguments)
            except FormulaError:
                domain.check([*self.common, *specs])
                fine = False
            if not fine and name in self.wider:
                domain = self.wider[name]
                fine = bool(domain(self.common | filled))
            if not fine:
                text = f"{self.id}: {name} = {shown(filled[name])} is out of its domain {domain.source}"
                raise UsageError(text, about=[name])
        return filled

    def beyond(self, values: Mapping[str, Value]) -> list[tuple[str, Formula]]:
        """Return the hyperparameters that only a library's domain accepts, each with the entry's own domain."""
        known = {**self.common, **values}
        return [(name, domain) for name, domain, _ in self.parts[0].domains if name in self.wider and not domain(known)]

    def named(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the given values by our names of the hyperparameters. Raises UsageError."""
        if not isinstance(cast(object, given), Mapping):
            raise UsageError(f"hyperparameters: found {shown(given)}; expected a mapping of names and values")
        entry = self.entry
        specs, others = entry.hyperparameters, entry.alternative_names
        found: dict[str, Any] = {}
        for name, raw in given.items():
            ours = name if name in specs else others.get(name, name)
            if ours not in specs:
                raise UnknownName("hyperparameter", name, [*specs, *others], f"of {entry.id}")
            if ours in found:
                raise UsageError(f"hyperparameter {ours} is given twice")
            found[ours] = raw
        return found

    def default(self, spec: Hyperparameter) -> Value:
        """Return the default value of a hyperparameter. Raises UsageError if it has none on this model."""
        if spec.type in ("int", "float") and isinstance(spec.default, str):
            try:
                value: Value = Formula.parse(spec.default)(self.common)
            except FormulaError as error:
                model = self.inventory.backbone.id
                raise UsageError(f"{self.id}: a default has no value on {model}: {error}") from None
            return value
        return spec.default

    def arguments(
        self, values: Mapping[str, Any], evaluate: Callable[[Formula, Mapping[str, Any]], Any] = Formula.__call__
    ) -> list[tuple[Any, ...]]:
        """Return, for each part, the values of its own hyperparameters in their declared order."""
        everything = [dict(values)]
        for part in self.parts[1:]:
            above = everything[part.parent]
            own: dict[str, Any] = {}
            for name, spec in part.entry.hyperparameters.items():
                if name in part.rename:
                    try:
                        own[name] = above[part.rename[name]]
                    except KeyError:
                        raise UnknownName("hyperparameter", part.rename[name], above, f"of {self.id}") from None
                elif name in part.fixed:
                    fixed = part.fixed[name]
                    computed = isinstance(fixed, str) and spec.type in ("int", "float")
                    own[name] = evaluate(Formula.parse(str(fixed)), self.common | above) if computed else fixed
                else:
                    own[name] = self.default(spec)
            everything.append(own)
        return [tuple(own.values()) for own in everything]

    def rows(self, values: Mapping[str, Value]) -> list[Row]:
        """Return every piece that exists with these hyperparameters, with its counts. Raises UsageError without any."""
        rows = self.each(values)
        return self._gathered(rows) if self.shares else rows

    def each(self, values: Mapping[str, Value]) -> list[Row]:
        """Return the same as `rows`, but keep one row per group of locations for tensors counted across all of them."""
        arguments = self.arguments(values) if len(self.parts) > 1 else [tuple(values.values())]
        rows = []
        for piece in self.pieces:
            args, measured, layers = arguments[piece.part], piece.measure, None
            if piece.own:
                args = self.arguments({**values, **piece.own})[piece.part]
            try:
                if measured.layered:
                    common, dims, there = self.common, piece.group.dims, measured.there
                    layers = frozenset([layer for layer in piece.group.layers if there(common, dims, layer, *args)[0]])
                    if not layers:
                        continue
                found = measured.sizes(self.common, piece.group.dims, *args)
            except FormulaError as error:
                text = f"{self.id}: tensor {piece.name} has no size here: {error}"
                raise UsageError(text, about=measured.hyperparameters) from None
            if found is not None:
                rows.append(self._row(piece, args, found, layers))
        if self.pieces and not rows:
            where = f"{self.inventory.backbone.id} (task {self.inventory.task})"
            raise UsageError(f"{self.id} finds nothing to act on in {where} with these hyperparameters")
        return rows

    def _row(self, piece: Piece, args: tuple[Any, ...], found: Any, layers: frozenset[int] | None) -> Row:
        """Return the row of a piece in these layers. `found`: the measure's result for each of its locations."""
        measured = piece.measure
        if found is False:
            raise self._unmet(piece, args)
        for number in found:
            if type(number) is not int or not 0 <= number <= EXACT:
                found = [self._whole(piece, what, n) for what, n in zip(measured.words, found, strict=True)]
                break
        where, copies, trained = piece.group, found[1], measured.trained
        n = copies * (where.n if layers is None else sum(n for layer, n in where.layers.items() if layer in layers))
        held = [0, 0, 0, 0]
        for kind, at in measured.columns:
            held[kind] += n * found[at]
        moved = 0 if trained is None else n * found[trained]
        return Row(piece, args, found[0], n, moved, copies, layers, held[0], held[1], held[2], held[3])

    def _gathered(self, rows: Sequence[Row]) -> list[Row]:
        """Merge each tensor with a share `across` all locations into one row: that share has no single location."""
        groups: dict[str, list[Row]] = {}
        for row in rows:
            groups.setdefault(row.piece.name, []).append(row)
        gathered = []
        for members in groups.values():
            if members[0].piece.measure.across:
                gathered.append(self._whole_row(members))
            else:
                gathered += members
        return gathered

    def _whole_row(self, members: Sequence[Row]) -> Row:
        piece, args = members[0].piece, members[0].args
        numel = sum(r.count * r.n for r in members)
        row = Row(piece, args, numel, 1, 0, roles=tuple(_roles(members)))
        for kind in (*HELD, "trained"):
            setattr(row, kind, sum(getattr(r, kind) for r in members))
        known = self.common | {"numel": numel}
        for kind, formula in piece.measure.across:
            what = "trained" if kind == "trained" else "stored"
            values = dict(zip(piece.measure.hyperparameters, args, strict=True))
            share = self._whole(piece, what, formula(known | values))
            setattr(row, kind, share if kind == "trained" else getattr(row, kind) + share)
        return row

    def _unmet(self, piece: Piece, args: tuple[Any, ...]) -> UsageError:
        formula, role = piece.measure.requires, piece.group.spots[0][1].role
        assert formula is not None
        known = self.common | dict(piece.group.dims) | dict(zip(piece.measure.hyperparameters, args, strict=True))
        bound = ", ".join(f"{n} = {known[n]}" for n in sorted(formula.names))
        where = f" at {role}" if role else ""
        text = f"{self.id}: tensor {piece.name}{where} requires {formula.source}; found {bound}"
        return UsageError(text, about=formula.names & {*piece.measure.hyperparameters})

    def _whole(self, piece: Piece, what: str, value: Any) -> int:
        """Return a count as an integer. Raises UsageError if it is negative, fractional or beyond 2**53."""
        if type(value) is int and 0 <= value <= EXACT:
            return value
        if not math.isfinite(value) or value != int(value):
            raise UsageError(f"{self.id}: tensor {piece.name}: {what} is {value}, not a whole number")
        number = int(value)
        if not 0 <= number <= EXACT:
            expected = "not a count between 0 and 2**53"
            raise UsageError(f"{self.id}: tensor {piece.name}: {what} is {number}, {expected}")
        return number

    def cost(self, given: Mapping[str, Any], dtype: str = "float32") -> Cost:
        """Return the cost with the hyperparameters `given`. Raises UsageError."""
        size = chosen("dtype", dtype, BYTES)
        values = self.values(given)
        rows = self.rows(values)
        trained = stored = indices = bits = shared = served = masks = 0
        for row in rows:
            trained += row.trained
            stored += row.values
            indices += row.indices
            bits += row.bits
            shared += row.shared
            if row.bits:
                masks += row.kept
            else:
                served += row.kept
        stored_bytes = stored * size + indices * INDEX_BYTES + -(-bits // 8)
        if max(trained, stored_bytes, shared, served, bits) > EXACT:
            raise UsageError(f"{self.id}: these hyperparameters give more than 2**53 numbers or bytes")
        inventory = self.inventory
        return Cost(
            self.id, inventory.backbone.id, values, self.targets, self.target_modules, inventory.task, dtype,
            trained, stored + indices, bits, stored_bytes,
            shared, served, masks,
            inventory.head, inventory.backbone.parameters, lambda: tuple(self._merged(rows)),
            lambda: self.base_bytes(values, size),
        )  # fmt: skip

    def base_bytes(self, values: Mapping[str, Value], size: int) -> int:
        """Return the bytes of the backbone: in `base_storage` format if declared, else with `size` bytes per value."""
        plain = self.inventory.backbone.parameters * size
        for part, args in zip(self.parts, self.arguments(values), strict=True):
            for module in self.inventory.modules if part.entry.base_storage else ():
                plain += self._requantised(part, module, args, size)
        return plain

    def _requantised(self, part: Part, module: Module, args: tuple[Any, ...], size: int) -> int:
        """Return the change in bytes of a module's weights (negative if they shrink) under `base_storage`."""
        storage = part.entry.base_storage.values()
        held = [s for s in storage if any(role_matches(p, module.role, module.stack) for p in s.roles)]
        shape = dict(module.parameters).get("weight")
        if not held or shape is None or not module.pretrained:
            return 0
        numel = math.prod(shape)
        known = self.common | dict(zip(part.entry.hyperparameters, args, strict=True)) | {"numel": numel}
        held_bytes = 0
        for one in held:
            try:
                count = one.count(known)
            except FormulaError as error:
                raise UsageError(f"{part.entry.id}: base_storage has no size at {module.path}: {error}") from None
            if not 0 <= count <= EXACT:
                expected = "expected a count from 0 to 2**53"
                raise UsageError(f"{part.entry.id}: base_storage at {module.path}: found {count}; {expected}")
            held_bytes += math.ceil(count * one.bits / 8)
        return module.count * (held_bytes - numel * size)

    def places(self, given: Mapping[str, Any]) -> list[Place]:
        """Return every declared tensor at each location, tensor by tensor in the network's order."""
        pairs = in_order(self.each(self.values(given)))
        return [place for row, spot in pairs for place in self._single(row, spot, self.shape(row, spot))]

    def _single(self, row: Row, spot: Spot, shape: tuple[int, ...] | None) -> Iterator[Place]:
        source, dims = spot.source, spot.dims
        own = dict(zip(row.piece.measure.hyperparameters, row.args, strict=True))
        known = {**self.common, **dims, **own, "numel": row.count}
        start, stop = (source.start, source.stop) if isinstance(source, SiteGroup) else (0, 0)
        stack = "" if source is None else source.stack
        for path, layer in row.locations(spot):
            here = known if layer is None else known | {"layer": layer}
            yield Place(
                row.piece.name, row.piece.tensor, path, spot.role, stack, layer, start, stop, dims.get("d_in", 0),
                dims.get("d_out", 0), shape, row.count, row.copies, here,
            )  # fmt: skip

    def shape(self, row: Row, spot: Spot | None = None) -> tuple[int, ...] | None:
        """Return the shape of a row's tensors; None if they are merged from several locations, or not dense."""
        piece = row.piece
        own = (spot or piece.group.spots[0][1]).shape
        if row.roles or own is not None or piece.tensor.shape is None:
            return None if row.roles else own
        return tuple([int(size) for size in piece.measure.shape(self.common, piece.group.dims, *row.args)])

    def _merged(self, rows: Sequence[Row]) -> Iterator[TensorCost]:
        groups: dict[tuple[Any, ...], list[Row]] = {}
        for row in rows:
            key = row.piece.name, row.piece.tensor.per, self.shape(row), row.count
            groups.setdefault(key, []).append(row)
        order = {name: i for i, name in enumerate(dict.fromkeys(name for name, *_ in groups))}
        ordered = sorted(groups.items(), key=lambda group: (order[group[0][0]], min(_there(group[1]))))
        for (name, per, shape, count), members in ordered:
            n = sum(r.n for r in members)
            roles = members[0].roles or tuple(_roles(members))
            yield TensorCost(
                name, per, shape, count, n, count * n, sum(r.trained for r in members),
                sum(r.values + r.indices for r in members), sum(r.bits for r in members),
                sum(r.shared for r in members), sum(r.kept for r in members if not r.bits),
                sum(r.kept for r in members if r.bits), roles,
            )  # fmt: skip


def in_order(rows: Sequence[Row]) -> list[tuple[Row, Spot]]:
    """Return each row with each of its spots, tensor by tensor in the network's order."""
    order = {name: i for i, name in enumerate(dict.fromkeys(row.piece.name for row in rows))}
    found = [(order[row.piece.name], number, row, spot) for row in rows for number, spot in row.piece.group.spots]
    found.sort(key=lambda place: place[:2])
    return [(row, spot) for _, _, row, spot in found]


def _roles(rows: Iterable[Row]) -> Iterator[str]:
    """Yield the roles of the locations of the rows' tensors, each once, in the network's order."""
    return iter(dict.fromkeys(role for _, role in sorted(_there(rows)) if role))


def _there(rows: Iterable[Row]) -> Iterator[tuple[int, str]]:
    """Yield the locations of the rows' tensors: the number of each in the network's order, and its role."""
    for row in rows:
        for number, spot in row.piece.group.spots:
            if row.layers is None or not row.layers.isdisjoint(spot.layers):
                yield number, spot.role
