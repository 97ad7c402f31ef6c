"""A method laid out on a model: everything that does not depend on the hyperparameters, done once.

A `Plan` knows the places of every tensor, with the formulas compiled and the dimensions of those places filled in. A
query then only puts the hyperparameters in. That takes microseconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ._costs import Cost, TensorCost
from ._errors import UnknownName, UsageError, shown
from ._formula import Formula
from ._inventory import Inventory, Module, SiteGroup, role_matches
from ._layout import Part, Spot, Suffixes, flattened, sites, spots, totals
from ._schema import Hyperparameter, Moved, Tensor, Value
from ._values import coerced

if TYPE_CHECKING:
    from ._kb import Method

__all__ = ["BYTES", "Place", "Plan"]

BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
INDEX_BYTES = 4
"""Bytes of one stored position (int32)."""
HELD = ("values", "indices", "bits", "shared")
"""What has to be held of a tensor, in a task's checkpoint or (shared) beside it."""
EXACT = 2**53
"""Counts stay below this, where JavaScript is exact too."""

Compiled = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Place:
    """One declared tensor at one place of the network.

    `path` is the module it belongs to ("" for the model, or for a feed-forward block), or for a selecting tensor the
    parameter's own name; `start`, `stop` the slice of a fused module's output. `copies` tensors of `count` entries.
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


@dataclass(slots=True)
class _Piece:
    """A tensor at one spot, its formulas compiled to functions of its entry's hyperparameters."""

    part: int
    name: str
    tensor: Tensor
    spot: Spot
    guard: Compiled | None
    requires: Compiled | None
    shape: tuple[Compiled, ...] | None
    count: Compiled | int
    copies: Compiled | None
    trained: Compiled | bool
    stored: tuple[tuple[str, Compiled | None], ...]


@dataclass(frozen=True, slots=True)
class _Row:
    """A piece with the hyperparameters put in: `n` tensors of `count` entries, and their share of the ledgers."""

    piece: _Piece
    args: tuple[Any, ...]
    count: int
    n: int
    trained: int
    values: int
    indices: int
    bits: int
    shared: int
    roles: tuple[str, ...] = ()

    @property
    def kept(self) -> int:
        """Entries that remain at inference, as numbers or (where they are stored as such) as bits."""
        return self.count * self.n if self.piece.tensor.served == "kept" else 0

    @property
    def shape(self) -> tuple[int, ...] | None:
        if self.roles:  # gathered from places of several shapes
            return None
        sizes = self.piece.shape
        return self.piece.spot.shape if sizes is None else tuple(int(size(*self.args)) for size in sizes)


class Plan:
    """A method on an inventory with chosen targets. Get it from `Method.plan`."""

    def __init__(
        self,
        method: Method,
        inventory: Inventory,
        targets: tuple[str, ...] | None = None,
        target_modules: Suffixes | None = None,
    ):
        self.method, self.inventory, self.target_modules = method, inventory, target_modules
        self.parts = flattened(method)
        self.names = tuple(method.entry.hyperparameters)
        if (targets or target_modules) and not any(p.entry.targets for p in self.parts):
            raise UsageError(f"{method.id} has no targets: it does not act on chosen linear modules")
        self.sites = [sites(self.parts, part, inventory, targets, target_modules) for part in self.parts]
        self.targets = targets or tuple(dict.fromkeys(site.role for group in self.sites for site in group))
        self.common: dict[str, Any] = {
            **inventory.dims,
            "backbone": inventory.backbone.parameters,
            **totals([site for group in self.sites for site in group]),
        }
        self.pieces = [
            self._piece(index, part, name, tensor, spot)
            for index, part in enumerate(self.parts)
            for name, tensor in part.entry.tensors.items()
            for spot in spots(tensor, inventory, self.sites[index], self.common)
        ]
        self._check_all_used()
        self.shares = any(
            isinstance(p.tensor.trained, Moved) or any(s.across for s in p.tensor.stored) for p in self.pieces
        )
        self._domains = [
            (name, spec.domain, spec.domain.compile(self.names, self.common))
            for name, spec in method.entry.hyperparameters.items()
            if spec.domain is not None
        ]

    def _piece(self, index: int, part: Part, name: str, tensor: Tensor, spot: Spot) -> _Piece:
        names = tuple(part.entry.hyperparameters)

        def compiled(formula: Formula | None) -> Compiled | None:
            return None if formula is None else formula.compile(names, spot.dims)

        sizes = tensor.shape or []
        size = tensor.count or Formula.parse(" * ".join(f"({s.source})" for s in sizes) or "1")
        kept = [s for s in tensor.stored if s.across is None and s.as_ in HELD]
        return _Piece(
            part=index,
            name=part.prefix + name,
            tensor=tensor,
            spot=spot,
            guard=compiled(_both(tensor.when, tensor.where)),
            requires=compiled(tensor.requires),
            shape=None if tensor.shape is None else tuple(s.compile(names, spot.dims) for s in sizes),
            count=math.prod(spot.shape) if spot.shape is not None else size.compile(names, spot.dims),
            copies=None if tensor.copies.literal == 1 else compiled(tensor.copies),
            trained=self._trained(tensor, names, spot),
            stored=tuple((s.as_, compiled(s.count)) for s in kept),
        )

    @staticmethod
    def _trained(tensor: Tensor, names: tuple[str, ...], spot: Spot) -> Compiled | bool:
        if isinstance(tensor.trained, Formula):
            return tensor.trained.compile(names, spot.dims)
        return True if isinstance(tensor.trained, Moved) else tensor.trained

    def _check_all_used(self) -> None:
        """Raise UsageError if nothing is found, or if a targeted module has no tensor that acts on it."""
        label = self.inventory.backbone.id
        if not self.pieces:
            raise UsageError(f"{self.method.id} finds nothing to act on in {label} (task {self.inventory.task})")
        used = {id(piece.spot.source) for piece in self.pieces}
        for part, group in zip(self.parts, self.sites, strict=True):
            if any(tensor.per == "site" for tensor in part.entry.tensors.values()):
                for site in group:
                    if id(site) not in used:
                        where = f"{site.module.path} (role {site.role}) of {label}"
                        raise UsageError(f"no tensor of {self.method.id} acts on {where}; name other targets")

    def values(self, given: Mapping[str, Any]) -> dict[str, Value]:
        """All hyperparameters, defaults filled in, each checked against its domain. Raises UsageError."""
        entry = self.method.entry
        specs, others = entry.hyperparameters, entry.alternative_names
        chosen: dict[str, Any] = {}
        for name, raw in given.items():
            ours = name if name in specs else others.get(name, name)
            if ours not in specs:
                raise UnknownName("hyperparameter", name, [*specs, *others], f"of {entry.id}")
            if ours in chosen:
                raise UsageError(f"hyperparameter {ours} is given twice")
            chosen[ours] = coerced(ours, specs[ours], raw)
        filled = {n: chosen[n] if n in chosen else self._default(spec) for n, spec in specs.items()}
        arguments = tuple(filled.values())
        for name, domain, holds in self._domains:
            try:
                fine = holds(*arguments)
            except (ArithmeticError, ValueError, TypeError):
                fine = False
            if not fine:
                raise UsageError(
                    f"{entry.id}: {name} = {shown(str(filled[name]))} is out of its domain {domain.source}"
                )
        return filled

    def _default(self, spec: Hyperparameter) -> Value:
        if spec.type in ("int", "float") and isinstance(spec.default, str):
            value: Value = Formula.parse(spec.default)(self.common)
            return value
        return spec.default

    def arguments(self, values: Mapping[str, Value]) -> list[tuple[Any, ...]]:
        """For each part, the values of its own hyperparameters in their declared order."""
        everything = [dict(values)]
        for part in self.parts[1:]:
            above = everything[part.parent]
            own: dict[str, Value] = {}
            for name, spec in part.entry.hyperparameters.items():
                if name in part.rename:
                    own[name] = above[part.rename[name]]
                elif name in part.fixed:
                    own[name] = self._fixed(spec, part.fixed[name], above)
                else:
                    own[name] = self._default(spec)
            everything.append(own)
        return [tuple(own.values()) for own in everything]

    def _fixed(self, spec: Hyperparameter, value: Value, above: Mapping[str, Value]) -> Value:
        if spec.type in ("int", "float") and isinstance(value, str):
            computed: Value = Formula.parse(value)({**self.common, **above})
            return computed
        return value

    def rows(self, values: Mapping[str, Value]) -> list[_Row]:
        """Every piece that exists under these hyperparameters, with its counts."""
        rows = self._each(values)
        return self._gathered(rows) if self.shares else rows

    def _each(self, values: Mapping[str, Value]) -> list[_Row]:
        arguments = self.arguments(values) if len(self.parts) > 1 else [tuple(values.values())]
        rows = []
        for piece in self.pieces:
            args = arguments[piece.part]
            try:
                if piece.guard is None or piece.guard(*args):
                    rows.append(self._row(piece, args))
            except (ArithmeticError, ValueError) as error:
                raise UsageError(f"{self.method.id}: tensor {piece.name} has no size here: {error}") from None
        return rows

    def _row(self, piece: _Piece, args: tuple[Any, ...]) -> _Row:
        if piece.requires is not None and not piece.requires(*args):
            raise UsageError(self._unmet(piece, args))
        count = piece.count
        if not isinstance(count, int):
            count = self._whole(piece, "its size", count(*args))
        n = piece.spot.n if piece.copies is None else piece.spot.n * self._whole(piece, "copies", piece.copies(*args))
        if piece.trained is True or piece.trained is False:
            trained = count * n if piece.trained else 0
        else:
            trained = n * self._whole(piece, "trained", piece.trained(*args))
        held = dict.fromkeys(HELD, 0)
        for kind, amount in piece.stored:
            held[kind] += n * (count if amount is None else self._whole(piece, "stored", amount(*args)))
        return _Row(piece, args, count, n, trained, held["values"], held["indices"], held["bits"], held["shared"])

    def _gathered(self, rows: Sequence[_Row]) -> list[_Row]:
        """Tensors with a share `across` all their places become one row each: that share has no place of its own."""
        groups: dict[str, list[_Row]] = {}
        for row in rows:
            groups.setdefault(row.piece.name, []).append(row)
        gathered = []
        for members in groups.values():
            tensor = members[0].piece.tensor
            if isinstance(tensor.trained, Moved) or any(s.across for s in tensor.stored):
                gathered.append(self._whole_row(members))
            else:
                gathered += members
        return gathered

    def _whole_row(self, members: Sequence[_Row]) -> _Row:
        piece, args = members[0].piece, members[0].args
        numel = sum(r.count * r.n for r in members)
        names = tuple(self.parts[piece.part].entry.hyperparameters)

        def share(what: str, formula: Formula) -> int:
            return self._whole(piece, what, formula.compile(names, self.common | {"numel": numel})(*args))

        spec = piece.tensor.trained
        trained = share("trained", spec.across) if isinstance(spec, Moved) else sum(r.trained for r in members)
        held = {kind: sum(getattr(r, kind) for r in members) for kind in HELD}
        for part in piece.tensor.stored:
            if part.across is not None:
                held[part.as_] += share("stored", part.across)
        roles = tuple(dict.fromkeys(r.piece.spot.role for r in members))
        values, indices, bits, shared = (held[kind] for kind in HELD)
        return _Row(piece, args, numel, 1, trained, values, indices, bits, shared, roles)

    def _unmet(self, piece: _Piece, args: tuple[Any, ...]) -> str:
        formula = piece.tensor.requires
        assert formula is not None
        names = tuple(self.parts[piece.part].entry.hyperparameters)
        known = piece.spot.dims | dict(zip(names, args, strict=True))
        bound = ", ".join(f"{n} = {known[n]}" for n in sorted(formula.names))
        where = f" at {piece.spot.role}" if piece.spot.role else ""
        return f"{self.method.id}: tensor {piece.name}{where} requires {formula.source}; found {bound}"

    def _whole(self, piece: _Piece, what: str, value: Any) -> int:
        """A count as an integer; counts that are negative, fractional or beyond 2**53 are refused."""
        if type(value) is int and 0 <= value <= EXACT:
            return value
        if not math.isfinite(value) or value != int(value):
            raise UsageError(f"{self.method.id}: tensor {piece.name}: {what} is {value}, not a whole number")
        number = int(value)
        if not 0 <= number <= EXACT:
            expected = "not a count between 0 and 2**53"
            raise UsageError(f"{self.method.id}: tensor {piece.name}: {what} is {number}, {expected}")
        return number

    def cost(self, given: Mapping[str, Any], dtype: str = "float32") -> Cost:
        """The cost with the hyperparameters `given`. Raises UsageError."""
        size = BYTES.get(dtype)
        if size is None:
            raise UnknownName("dtype", dtype, BYTES)
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
        if max(trained, stored + indices, shared, served, bits) > EXACT:
            raise UsageError(f"{self.method.id}: these hyperparameters give more than 2**53 numbers")
        inventory = self.inventory
        return Cost(
            self.method.id, inventory.backbone.id, values, self.targets, self.target_modules, inventory.task, dtype,
            trained, stored + indices, bits, stored * size + indices * INDEX_BYTES + -(-bits // 8),
            shared, served, masks,
            inventory.head, inventory.backbone.parameters, lambda: tuple(_merged(rows)),
            lambda: self._base_bytes(values, size),
        )  # fmt: skip

    def _base_bytes(self, values: Mapping[str, Value], size: int) -> int:
        """Bytes of the backbone as the method holds it: `base_storage` where declared, `size` a number elsewhere."""
        plain = self.inventory.backbone.parameters * size
        for part, args in zip(self.parts, self.arguments(values), strict=True):
            for module in self.inventory.modules if part.entry.base_storage else ():
                plain += self._requantised(part, module, args, size)
        return plain

    def _requantised(self, part: Part, module: Module, args: tuple[Any, ...], size: int) -> int:
        """By how many bytes a module's weights grow (or shrink, below zero) when held as `base_storage` says."""
        storage = part.entry.base_storage.values()
        held = [s for s in storage if any(role_matches(p, module.role, module.stack) for p in s.roles)]
        shape = dict(module.parameters).get("weight")
        if not held or shape is None or not module.pretrained:
            return 0
        names, numel = tuple(part.entry.hyperparameters), math.prod(shape)
        counts = [(s.count.compile(names, self.common | {"numel": numel})(*args), s.bits) for s in held]
        held_bytes: int = sum(math.ceil(count * bits / 8) for count, bits in counts)
        return module.count * (held_bytes - numel * size)

    def places(self, given: Mapping[str, Any]) -> list[Place]:
        """Every declared tensor at every single place of the network."""
        return [place for row in self._each(self.values(given)) for place in _single(row)]


def _single(row: _Row) -> Iterator[Place]:
    spot, source = row.piece.spot, row.piece.spot.source
    start, stop = (source.start, source.stop) if isinstance(source, SiteGroup) else (0, 0)
    stack = "" if source is None else source.stack
    for layer in spot.layers or (None,):
        path = spot.path if layer is None else spot.path.replace("{layer}", str(layer))
        yield Place(
            row.piece.name, row.piece.tensor, path, spot.role, stack, layer, start, stop, spot.dims.get("d_in", 0),
            spot.dims.get("d_out", 0), row.shape, row.count, row.n // spot.n,
        )  # fmt: skip


def _merged(rows: Sequence[_Row]) -> Iterator[TensorCost]:
    groups: dict[tuple[Any, ...], list[_Row]] = {}
    for row in rows:
        groups.setdefault((row.piece.name, row.piece.tensor.per, row.shape, row.count), []).append(row)
    for (name, per, shape, count), members in groups.items():
        n = sum(r.n for r in members)
        roles = (role for r in members for role in r.roles or (r.piece.spot.role,) if role)
        yield TensorCost(
            name, per, shape, count, n, count * n, sum(r.trained for r in members),
            sum(r.values + r.indices for r in members), sum(r.bits for r in members), sum(r.shared for r in members),
            sum(r.kept for r in members if not r.bits), sum(r.kept for r in members if r.bits),
            tuple(dict.fromkeys(roles)),
        )  # fmt: skip


def _both(a: Formula | None, b: Formula | None) -> Formula | None:
    if a is None or b is None:
        return a or b
    return Formula.parse(f"({a.source}) and ({b.source})")
