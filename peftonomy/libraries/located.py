"""Read a configuration of a library that selects locations: a short name, a saved file, or a union of several.

The library's counts come from its own declarations (`libraries.built`). The method's ledgers come from the entry that
describes the configuration best; notes name the arguments that this entry does not have.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..costs.cost import Cost, TensorCost
from ..costs.layout import NamedSites
from ..costs.plan import BYTES, Plan
from ..costs.values import coerced
from ..errors import ConfigError, FormulaError, UnknownName, UsageError, shown

if TYPE_CHECKING:
    from ..backbones.backbone import Inventory
    from ..backbones.modules import SiteGroup
    from ..catalogue.records import MethodRecord, Records
    from ..schema.builds import Shorthand
    from ..schema.implementations import Deviation, Implementation
    from ..schema.library import Library

from .adapter import Adapter, Reported
from .arguments import NESTED, numbers
from .built import Counted, heads_trained, host_of, refusal

__all__ = ["LocatedAdapter", "check_located", "read_located"]

CHUNK = re.compile(r"^(?P<name>[^\[\]\|\n]+)(?:\[(?P<arguments>.*)\])?$")
KINDS = ("given_", "mapped_", "float_")
"""The prefixes of the names that formulas use for facts about an argument."""


@dataclass(frozen=True)
class LocatedAdapter(Adapter):
    """A parsed configuration whose counts the library's file declares.

    parts: the configurations of a union. counts: what the library reports.
    """

    counts: Reported = field(default=Reported(0, 0, 0, 0))
    parts: tuple[LocatedAdapter, ...] = ()

    @cached_property
    def reported(self) -> Reported:
        """The counts that the library will report."""
        return self.counts

    @cached_property
    def cost(self) -> Cost:
        """The ledgers of the method, or of all methods of a union together."""
        if not self.parts:
            return self.plan.cost(self.hyperparameters, self.dtype)
        return _together([part.cost for part in self.parts])

    @property
    def deviations(self) -> list[Deviation]:
        """The differences between the library and the entries."""
        found = [super().deviations] if not self.parts else [part.deviations for part in self.parts]
        return [deviation for own in found for deviation in own]


def read_located(
    kb: Records[Any],
    library: Library,
    source: str,
    config: Mapping[str, Any],
    inventory: Inventory,
    wanted: str | None,
    dtype: str,
) -> LocatedAdapter:
    """Read a saved configuration, alone or in the file of an adapter. Raises ConfigError, UsageError."""
    if dtype not in BYTES:
        raise UnknownName("dtype", dtype, BYTES)
    own: Any = config.get(NESTED, config)
    parts = list(_short(library, source, own) if isinstance(own, str) else _saved(library, source, own))
    adapters = [_Part(kb, library, where, kind, values, inventory) for where, kind, values in parts]
    _together_possible(library, source, [part.counted for part in adapters])
    if len(adapters) > 1 and wanted is not None:
        raise UsageError(f"a union names its methods itself; leave out {wanted}")
    done = [part.adapter(wanted, dtype) for part in adapters]
    if len(done) == 1:
        return done[0]
    whole = _united(library, done, _reported(library, inventory, [part.counted for part in adapters], dtype))
    return _described(kb, whole)


def check_located(library: Library, source: str, config: Mapping[str, Any], inventory: Inventory) -> None:
    """Raise ConfigError for a saved configuration that the library does not build on a model."""
    parts = [
        Counted(library, where, _base(library, kind), values, inventory)
        for where, kind, values in _saved(library, source, config)
    ]
    _together_possible(library, source, parts)


def _base(library: Library, kind: str) -> str:
    """Return the first type with the same name in a saved configuration, which declares the tensors."""
    return str(library.type_saved_as(library.types[kind].saved))


# The configuration


def _short(library: Library, source: str, text: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield each configuration in a text: where it is, its type and all its arguments."""
    for chunk in text.split("|"):
        match = CHUNK.match(chunk.strip())
        name = match["name"] if match else chunk.strip()
        if match is None or name not in library.shorthands:
            raise refusal(source, "", name, f"a file, or a short name of {library.name}", library.shorthands)
        try:
            named = re.sub(r"(\w+)=", r"'\1':", match["arguments"] or "")
            given = ast.literal_eval("{" + named + "}")
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            given = None
        if not isinstance(given, dict) or not all(isinstance(key, str) for key in given):
            raise refusal(source, name, match["arguments"], "arguments such as r=16, dropout=0.1")
        short = library.shorthands[name]
        parts = [_filled(library, source, one, given) for one in short.union or [short]]
        if short.union and "|" in text:
            raise refusal(source, name, "a union inside a union", "the configurations themselves")
        yield from parts


def _filled(
    library: Library, source: str, short: Shorthand, given: Mapping[str, Any]
) -> tuple[str, str, dict[str, Any]]:
    kind = str(short.type)
    known = library.defaults(kind)
    for name, value in given.items():
        if name not in known:
            raise refusal(source, str(name), shown(str(value)), f"an argument that {kind} has", known)
    return source, kind, {**known, **short.set, **given}


def _saved(library: Library, source: str, raw: Any) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield each configuration in a saved one: where it is, its type and all its arguments."""
    if not isinstance(raw, Mapping):
        raise refusal(source, NESTED, raw, "an object with the arguments of a configuration")
    word = raw.get(library.type_key)
    if word is not None and word == library.union:
        configs = raw.get("configs")
        if not isinstance(configs, list) or not configs:
            raise refusal(source, "configs", configs, "a list of configurations")
        for number, one in enumerate(configs):
            if isinstance(one, Mapping) and one.get(library.type_key) == library.union:
                raise refusal(source, f"configs.{number}", "a union", "a configuration of one method")
            yield from _saved(library, f"{source}, configs.{number}", one)
        return
    kind = library.type_saved_as(word)
    if kind is None:
        names = [str(n) for n in dict.fromkeys([*(k.saved for k in library.types.values()), library.union]) if n]
        raise refusal(source, library.type_key, word, f"one of {', '.join(names)}, or null", names)
    known = library.defaults(kind)
    given = {name: value for name, value in raw.items() if name != library.type_key}
    for name, value in given.items():
        if name not in known and value:
            raise refusal(source, name, value, f"an argument that {kind} has in {library.version}", known)
    for name in library.types[kind].needs:
        if name not in given:
            raise refusal(source, name, "nothing", f"a value, as {library.name} has no default for it")
    yield source, kind, {**known, **{name: value for name, value in given.items() if name in known}}


def _together_possible(library: Library, source: str, parts: list[Counted]) -> None:
    """Raise ConfigError for a union that the library does not build."""
    for one, other in itertools.combinations(parts, 2):
        skips = one.build.skips
        if one.kind == other.kind and skips and not one.values[skips] and not other.values[skips]:
            for name in one.build.apart:
                if one.values[name] == other.values[name]:
                    raise refusal(source, name, f"{one.values[name]} twice", "a value that differs in a union")
    taken: dict[Any, str] = {}
    for part in parts:
        alone = [] if part.build.blocks else [library.types[part.kind].like or part.kind]
        whole = [f"{part.build.needs}, {p.per}" for p in part.pieces if p.shared or p.per == "model"]
        for room in (*part.rooms, *alone, *dict.fromkeys(whole)):
            if room in taken:
                what = room[0] if isinstance(room, tuple) else library.type_key
                found = f"{taken[room]} and {part.kind} at the same place"
                raise refusal(source, what, found, "configurations of different methods or layers")
            taken[room] = part.kind


# One configuration


class _Part:
    """One configuration of one type, with the entry that describes it best."""

    def __init__(
        self, kb: Records[Any], library: Library, source: str, kind: str, values: dict[str, Any], inventory: Inventory
    ):
        self.kb, self.library, self.source, self.type, self.values = kb, library, source, kind, values
        self.inventory = inventory
        self.base = _base(library, kind)
        self.counted = Counted(library, source, self.base, values, inventory)
        self.notes = list(self.counted.remarks)

    def adapter(self, wanted: str | None, dtype: str) -> LocatedAdapter:
        method, entry, given = self._method(wanted)
        self._differences(method, entry, given)
        plan = self._plan(method, entry, given)
        return LocatedAdapter(
            self.library, self.type, method, plan, self.values, given, {}, tuple(heads_trained(self.inventory)), {},
            tuple(self.notes), dtype, _reported(self.library, self.inventory, [self.counted], dtype),
        )  # fmt: skip

    def _method(self, wanted: str | None) -> tuple[MethodRecord, Implementation, dict[str, Any]]:
        """Return the method that is closest to the configuration and has a setting for it."""
        found = sorted(self._candidates(), key=lambda one: one[0])
        if wanted is not None:
            method = self.kb[wanted]
            found = [one for one in found if one[1] is method]
            if not found:
                raise UsageError(f"{wanted} is not a {self.library.name} configuration of type {self.type}")
        for _, method, entry in found:
            before = len(self.notes)
            try:
                return method, entry, self._hyperparameters(method, entry)
            except FormulaError:  # sizes that this configuration does not give
                del self.notes[before:]
        expected = "a configuration that an entry describes"
        raise refusal(self.source, self.library.type_key, self.library.types[self.type].saved, expected)

    def _candidates(self) -> Iterator[tuple[Any, MethodRecord, Implementation]]:
        """Yield each method of this type, first by its distance from the configuration."""
        for method in self.kb.values():
            entry = method.entry.implementations.get(self.library.id)
            kind = None if entry is None else entry.type
            if entry is not None and kind is not None and self.library.type_saved_as(
                self.library.types[kind].saved
            ) == self.base:
                other = list(self._unexplained(entry))
                blocks = sum(name in self.counted.build.blocks for name in other)
                counted = sum(name in self._counting for name in other)
                named = kind != self.type
                order = [*self.library.types].index(kind)
                yield (blocks, counted, named, len(other), order, method.id), method, entry

    @cached_property
    def _counting(self) -> set[str]:
        """The arguments that change counts."""
        build = self.counted.build
        formulas = [*build.let.values(), *(f for t in build.tensors for f in (t.when, t.count, t.saved) if f)]
        names = {name for formula in formulas for name in formula.names}
        return names | {name.removeprefix(kind) for name in names for kind in KINDS}

    def _unexplained(self, entry: Implementation) -> Iterator[str]:
        """Yield the arguments whose values an entry neither has nor sets."""
        build, host = self.counted.build, self.counted.host
        places = {build.skips, build.layers, build.picks, *host.linear, *host.prefixes.values()}
        explained = {*entry.rename.values(), *entry.write, *places}
        explained |= {name for formula in entry.read.values() for name in formula.names}
        usual = self.library.defaults(str(entry.type)) | entry.set
        for name, value in self.values.items():
            if name not in explained and value != usual.get(name):
                yield name

    def _hyperparameters(self, method: MethodRecord, entry: Implementation) -> dict[str, Any]:
        given: dict[str, Any] = dict(entry.defaults)
        known = {**self.inventory.dims, **numbers(self.values)}
        mapped = {name for name, value in self.values.items() if isinstance(value, Mapping)}
        for ours, theirs in entry.rename.items():
            if (value := self.values.get(theirs)) is not None:
                self._put(given, method, ours, theirs, value)
        for ours, formula in entry.read.items():
            named = ", ".join(sorted(formula.names & mapped))
            others = {name: self.values[name].get("default") for name in formula.names & mapped}
            if named:
                whose = "its" if None in others.values() else "the mapping's"
                self.notes.append(f"{named}: {method.id} has one {ours} for all layers; {whose} default is counted.")
            if None not in others.values():
                self._put(given, method, ours, ", ".join(sorted(formula.names)), formula(known | others))
        return given

    def _put(self, given: dict[str, Any], method: MethodRecord, ours: str, theirs: str, value: Any) -> None:
        """Set a hyperparameter; note a value that the library accepts and the entry does not."""
        spec = method.entry.hyperparameters[ours]
        plain = Plan(method.parts, self.inventory)
        try:
            found = coerced(ours, spec, float(value) if spec.type == "float" else value)
            plain.values({ours: found})
        except (UsageError, TypeError, ValueError):
            self.notes.append(f"{theirs} = {value}: {method.id} has no such {ours}; its default is counted.")
        else:
            given[ours] = found

    def _differences(self, method: MethodRecord, entry: Implementation, given: Mapping[str, Any]) -> None:
        """Note the arguments that change the library's counts and that the entry does not have."""
        for name in self._unexplained(entry):
            if name in self._counting or name in self.counted.build.blocks:
                said = f"{name} = {self.values[name]}"
                self.notes.append(f"{said}: only the library's counts include it; {method.id} has no such setting.")
        build = self.counted.build
        limits = {name: self.values[name] for name in (build.skips, build.layers) if name is not None}
        if any(isinstance(value, list) and value for value in limits.values()) and not method.entry.targets:
            self.notes.append(f"{', '.join(limits)}: only the library's counts leave out layers.")

    def _plan(self, method: MethodRecord, entry: Implementation, given: Mapping[str, Any]) -> Plan:
        """Return the method on the modules that the library adapts; of several layouts the one with its counts."""
        choices: list[NamedSites | None] = [None]
        if method.entry.targets and (self.counted.sites or self.library.roles(str(entry.type))):
            choices = [*(NamedSites(tuple(sites), _nowhere) for sites in self._layouts(entry) if sites), None]
        plans, problem = [], UsageError("")
        for chosen in choices:
            try:
                plan = Plan(method.parts, self.inventory, chosen=chosen)
                plans.append((plan.cost(given).trained, plan))
            except UsageError as error:
                problem = error
        if not plans:
            raise ConfigError(self.source, self.library.type_key, str(problem), f"a setting that {method.id} accepts")
        trained = sum(piece.trained for piece in self.counted.pieces)
        return next((plan for count, plan in plans if count == trained), plans[0][1])

    def _layouts(self, entry: Implementation) -> Iterator[list[SiteGroup]]:
        """Yield the modules with the roles that the arguments select, and the modules that the library adapts."""
        roles = self.library.roles(str(entry.type)).items()
        picked = [role for role, asks in roles if all(_covers(self.values.get(n), v) for n, v in asks.items())]
        there = [role for role in picked if self.inventory.has_role(role)]
        yield self.counted.limited(self.inventory.resolve_roles(there)) if there else []
        yield self.counted.sites


def _covers(value: Any, wanted: Any) -> bool:
    return isinstance(value, list) and all(one in value for one in wanted) if isinstance(wanted, list) else bool(value)


def _nowhere(path: str) -> bool:
    return False


# Together


def _reported(library: Library, inventory: Inventory, parts: list[Counted], dtype: str) -> Reported:
    prefix = inventory.backbone.family.tasks[inventory.task].prefix
    pieces = [piece for part in parts for piece in part.pieces]
    beside = list(heads_trained(inventory))
    host = host_of(library, "", inventory)
    biases = sum(
        m.count * m.d_out for m in inventory.modules if m.role == host.fused and m.kind == "linear" and not m.bias
    )
    stored = sum(piece.saved for piece in pieces if prefix or not piece.shared)
    return Reported(
        sum(piece.trained for piece in pieces) + sum(extra.trained for extra in beside),
        inventory.total + sum(piece.count for piece in pieces) + biases,
        stored,
        stored * BYTES[dtype],
    )


def _united(library: Library, parts: list[LocatedAdapter], counts: Reported) -> LocatedAdapter:
    """Return the configuration of a union, from its parts."""
    arguments = {library.type_key: library.union, "configs": [part.arguments for part in parts]}
    notes = tuple(dict.fromkeys(note for part in parts for note in part.notes))
    return replace(
        parts[0], type=str(library.union), arguments=arguments, notes=notes, counts=counts, parts=tuple(parts)
    )


def _described(kb: Records[Any], whole: LocatedAdapter) -> LocatedAdapter:
    """Return a union as the entry that describes it, if one has these parts and trains as much."""
    methods = sorted(part.method.id for part in whole.parts)
    trained = whole.counts.trained - sum(extra.trained for extra in whole.extras)
    for method in kb.values():
        entry = method.entry.implementations.get(whole.library.id)
        if entry is None or sorted(entry.unites.values()) != methods:
            continue
        own = {name: value for part in whole.parts for name, value in part.hyperparameters.items()}
        given = {name: value for name, value in own.items() if name in method.entry.hyperparameters}
        try:
            plan = Plan(method.parts, whole.plan.inventory)
            one = Adapter(whole.library, whole.type, method, plan, {}, given, {}, (), {}, (), whole.dtype)
            found = one.reported.trained
        except UsageError:
            continue
        if found == trained:
            notes = tuple(note for note in whole.notes if note not in {n for part in whole.parts for n in part.notes})
            return replace(whole, method=method, plan=plan, hyperparameters=given, notes=notes, parts=())
    return whole


def _together(costs: list[Cost]) -> Cost:
    """Return the sum of the ledgers of several methods on one model."""
    first = costs[0]

    def tensors() -> tuple[TensorCost, ...]:
        named = [(cost.method, tensor) for cost in costs for tensor in cost.tensors]
        return tuple(replace(tensor, name=f"{method}.{tensor.name}") for method, tensor in named)

    def total(name: str) -> int:
        return sum(getattr(cost, name) for cost in costs)

    return Cost(
        " + ".join(cost.method for cost in costs), first.model,
        {f"{cost.method}.{name}": value for cost in costs for name, value in cost.hyperparameters.items()},
        tuple(dict.fromkeys(role for cost in costs for role in cost.targets)), None, first.task, first.dtype,
        total("trained"), total("stored"), total("stored_bits"), total("stored_bytes"), total("shared"),
        total("served"), total("served_bits"), first.head, first.backbone, tensors, lambda: first.base_bytes,
    )  # fmt: skip
