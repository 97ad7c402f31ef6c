"""Reading a library's configuration: which method it is, at which setting, on which modules, and what it costs.

    >>> import peftonomy
    >>> kb = peftonomy.load()
    >>> adapter = kb.adapter({"peft_type": "LORA", "r": 32, "target_modules": ["q_proj", "v_proj"]}, "llama_3_2_3b")
    >>> adapter.method.id, adapter.cost.trained, adapter.reported.total
    ('lora', 9175040, 3221924864)

Modules are resolved as the library resolves them. What an argument says is either understood, or known to change no
tensor, or left at its default; anything else is an error, because the counts would be those of something else.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._backbone import MAX_LAYERS, read_json
from ._costs import Cost
from ._errors import ConfigError, UsageError, near, shown
from ._inventory import INPUT_EMBEDDING, LINEAR, OUTPUT_EMBEDDING, Inventory, Module, SiteGroup
from ._layout import Chosen
from ._plan import BYTES, Plan
from ._schema import Deviation, Implementation, Value
from ._values import coerced

if TYPE_CHECKING:
    from ._backbone import Backbone
    from ._kb import KnowledgeBase, Method
    from ._library import Library

__all__ = ["Adapter", "Extra", "Reported", "read_adapter"]

ALL_LINEAR, THE_EMBEDDING = "all-linear", "input-embedding"
STRUCTURE = frozenset({
    "target_modules", "exclude_modules", "target_parameters", "layers_to_transform", "layers_pattern",
    "modules_to_save", "bias", "trainable_token_indices", "ensure_weight_tying", "layer_replication",
})  # fmt: skip
"""Arguments that say where; they mean the same in every type that has them."""

@dataclass(frozen=True, slots=True)
class Extra:
    """What a configuration trains besides its method: `trained` numbers, by which model and file grow as given."""

    name: str
    trained: int
    added: int
    stored: int


@dataclass(frozen=True, slots=True)
class Reported:
    """What the library itself says of the wrapped model, extras included.

    trained: numbers that require a gradient. total: all parameters. stored: numbers in the file that it saves, and
    their bytes.
    """

    trained: int
    total: int
    stored: int
    stored_bytes: int


@dataclass(frozen=True)
class Adapter:
    """A configuration that was read. `KnowledgeBase.adapter` makes it.

    type: as the library has it. arguments: all of them, defaults filled in. hyperparameters: the method's own, where
    the configuration says them. patterns: sites with values of their own, by module name. notes: what was not taken
    literally, in sentences.
    """

    library: Library
    type: str
    method: Method
    plan: Plan
    arguments: dict[str, Any]
    hyperparameters: dict[str, Any]
    patterns: dict[str, dict[str, Value]]
    extras: tuple[Extra, ...]
    notes: tuple[str, ...]
    dtype: str

    @cached_property
    def cost(self) -> Cost:
        """The method's own ledgers, as the entry defines them."""
        return self.plan.cost(self.hyperparameters, self.dtype)

    @property
    def implementation(self) -> Implementation:
        """What the entry says of the method in this library."""
        return self.method.entry.implementations[self.library.id]

    @property
    def deviations(self) -> list[Deviation]:
        """Where the library differs from the entry."""
        return self.implementation.deviations

    @cached_property
    def reported(self) -> Reported:
        """What the library will report."""
        entry, cost = self.implementation, self.cost
        selecting = {piece.name for piece in self.plan.pieces if piece.tensor.selecting}
        grown = sum(tensor.total for tensor in cost.tensors if tensor.name not in selecting)
        known = _numbers(self.arguments) | self.plan.common | cost.hyperparameters | {
            name: getattr(cost, name) for name in ("trained", "stored", "stored_bits", "shared", "served", "head")
        } | {"added": grown} | _besides(self.plan) | _totals(cost)  # fmt: skip
        trained, added, stored = (
            plain if formula is None else math.ceil(formula(known))
            for formula, plain in ((entry.trained, cost.trained), (entry.added, grown), (entry.stored, cost.stored))
        )
        beside = [sum(getattr(extra, name) for extra in self.extras) for name in ("trained", "added", "stored")]
        size = BYTES[self.dtype]
        held = cost.stored_bytes if entry.stored is None else stored * size
        return Reported(
            trained + beside[0], self.plan.inventory.total + added + beside[1], stored + beside[2],
            held + beside[2] * size,
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Plain data: `cost` as `cost --json` prints it, and beside it what the library makes of it."""
        return self.cost.to_dict() | {
            "library": self.library.id,
            "type": self.type,
            "patterns": self.patterns,
            "extras": [asdict(extra) for extra in self.extras],
            "reported": asdict(self.reported),
            "notes": list(self.notes),
            "deviations": [d.model_dump(exclude_none=True) for d in self.deviations],
        }

    def __repr__(self) -> str:
        return f"<Adapter {self.library.id} {self.type}: {self.method.id} on {self.plan.inventory.backbone.id}>"


def read_adapter(
    kb: KnowledgeBase,
    config: str | Path | Mapping[str, Any],
    model: str | Path | Mapping[str, Any] | Backbone,
    *,
    library: str,
    method: str | None,
    task: str | None,
    num_labels: int,
    dtype: str,
) -> Adapter:
    """See `KnowledgeBase.adapter`."""
    spec = kb.libraries[library]
    if isinstance(config, Mapping):
        source, raw = "configuration", dict(config)
    else:
        path = Path(config) / spec.file if Path(config).is_dir() else Path(config)
        source, raw = str(path), read_json(path)
    return _Reading(kb, spec, source, raw, kb.backbone(model)).adapter(method, task, num_labels, dtype)


class _Reading:
    """One configuration while it is read."""

    def __init__(self, kb: KnowledgeBase, library: Library, source: str, raw: dict[str, Any], backbone: Backbone):
        self.kb, self.library, self.source, self.raw, self.backbone = kb, library, source, raw, backbone
        self.notes: list[str] = []
        self.type = self._type()
        self.spec = library.types[self.type]
        self.filled: dict[str, int] = {}
        self.values = self._values()

    def refuse(self, field: str, found: object, expected: str, hint: str = "") -> ConfigError:
        """The error for a field of the configuration."""
        text = found if isinstance(found, str) else json.dumps(found, default=str)
        return ConfigError(self.source, field, text, expected, hint)

    # What it says

    def _type(self) -> str:
        key, known = self.library.type_key, self.library.types
        found = self.raw.get(key)
        if isinstance(found, str) and found in known:
            return found
        matches = near(found, known) if isinstance(found, str) else []
        hint = f"did you mean {' or '.join(matches)}?" if matches else ""
        text = "nothing" if found is None else found
        raise self.refuse(key, text, f"one of {self.library.name}'s types: {', '.join(sorted(known))}", hint)

    def _values(self) -> dict[str, Any]:
        """Every argument of the type: what is given, else the default."""
        known = self.library.defaults(self.type)
        for name in sorted(self.raw.keys() - known.keys()):
            if self.raw[name]:
                matches = near(name, known)
                hint = f"did you mean {' or '.join(matches)}?" if matches else ""
                version = f"{self.library.name} {self.library.version}"
                raise self.refuse(name, self.raw[name], f"an argument that {self.type} has in {version}", hint)
            self.notes.append(f"{name} is no argument that is known here; it says nothing and was passed over.")
        given = {name: value for name, value in self.raw.items() if name in known and value is not None}
        values = {name: given.get(name, self._default(name)) for name in known}
        for name in self.spec.needs:
            if values[name] is None:
                raise self.refuse(name, "nothing", f"a value, as {self.library.name} has no default for it")
        for name, formula in self.spec.fills.items():
            try:
                self.filled[name] = formula(_numbers(values) | self.backbone.inventory().dims)
            except TypeError:  # a word where a number is expected
                said = {other: values[other] for other in sorted(formula.names & known.keys())}
                raise self.refuse(", ".join(said), said, f"values that give {name}") from None
            values[name] = given.get(name, self.filled[name])
            if type(values[name]) is not int or values[name] < 1:
                raise self.refuse(name, values[name], "a whole number from 1")
        return values

    def _default(self, name: str) -> Any:
        if name in self.filled:
            return self.filled[name]
        found = self.library.default(self.type, name, self.backbone.family.model_type)
        if found is None and name == "target_modules" and self.spec.otherwise is not None:
            return self.spec.otherwise
        return found

    def adapter(self, wanted: str | None, task: str | None, num_labels: int, dtype: str) -> Adapter:
        method = self._method(wanted)
        entry = method.entry.implementations[self.library.id]
        given = self._hyperparameters(method, entry)
        said = self.library.tasks.get(str(self.values.get("task_type")))
        inventory = self.backbone.inventory(task or self._task(), num_labels)
        saved = list(said.saved) if said is not None and "modules_to_save" in self.values else []
        self._nothing_left(entry)
        try:
            where = _Where(self, inventory, saved) if self.spec.accepts else None
            patterns: dict[str, dict[str, Value]] = {}
            chosen = None if where is None else self._chosen(method, entry, where, given, patterns)
            plan = Plan(method, inventory, chosen=chosen)
            self._as_written(entry, {**plan.common, **plan.values(given)})
        except UsageError as error:
            raise self.refuse("", str(error), f"what {method.id} admits") from None
        for formula in (entry.trained, entry.stored, entry.added):
            if formula is not None and (told := {name for own in patterns.values() for name in own} & formula.names):
                named = ", ".join(entry.rename[name] for name in sorted(told))
                raise self.refuse(named, patterns, "one value for all modules: what the library counts follows from it")
        extras = tuple((where or _Where(self, inventory, saved)).extras(plan))
        return Adapter(
            self.library, self.type, method, plan, self.values, given, patterns, extras, tuple(self.notes), dtype
        )

    def _task(self) -> str | None:
        word = self.values.get("task_type")
        if word is None:
            return None
        if not isinstance(word, str) or word not in self.library.tasks:
            raise self.refuse("task_type", word, f"one of {', '.join(self.library.tasks)}; or name a task with --task")
        task = self.library.tasks[word].task
        return task if task in self.backbone.family.tasks else None

    # Which method

    def _method(self, wanted: str | None) -> Method:
        if wanted is not None:
            method = self.kb[wanted]
            entry = method.entry.implementations.get(self.library.id)
            known = self.library.defaults(self.type).keys()
            if (
                entry is None
                or entry.type not in (None, self.type)
                or not known >= {theirs.partition(".")[0] for theirs in entry.rename.values()}
            ):
                raise UsageError(f"{wanted} is no {self.library.name} configuration of type {self.type}")
            for name, value in entry.set.items():
                if not _meets(self.values.get(name), value):
                    raise self.refuse(name, self.values.get(name), f"{shown(value)}, which makes it {wanted}")
            return method
        found = sorted(self._candidates(), key=lambda item: (*(-n for n in item[0]), item[1].year, item[1].id))
        if not found:
            raise self.refuse(self.library.type_key, self.type, "a type that an entry describes at these arguments")
        best = [method for score, method in found if score == found[0][0]]
        if len(best) > 1:
            others = ", ".join(m.id for m in best[1:])
            self.notes.append(f"Counted as {best[0].id}; {others} would be as well.")
        return best[0]

    def _candidates(self) -> Iterator[tuple[tuple[int, int], Method]]:
        """The methods that it may be, each with how much it explains: arguments that change tensors first.

        A method whose symbol is another than the type's class needs more than a configuration (an optimiser, a
        quantised model), so only its caller can know.
        """
        for method in self.kb.values():
            entry = method.entry.implementations.get(self.library.id)
            if entry is None or entry.type != self.type:
                continue
            if entry.symbol is not None and entry.symbol.partition("(")[0] != self.spec.symbol:
                continue
            if all(_meets(self.values.get(name), value) for name, value in entry.set.items()):
                changing = sum(not self.library.inert_at(name, self.values[name]) for name in entry.set)
                yield (changing, len(entry.set)), method

    # At which setting

    def _hyperparameters(self, method: Method, entry: Implementation) -> dict[str, Any]:
        given: dict[str, Any] = {}
        numbers = _numbers(self.values) | self.backbone.dims
        for ours, theirs in entry.rename.items():
            value = self._look(theirs)
            if ours in entry.defaults and theirs.partition(".")[0] not in self.raw:
                value = entry.defaults[ours]
            if value is not None:
                given[ours] = self._coerced(method, ours, theirs, value)
        for ours, formula in entry.read.items():
            given[ours] = self._coerced(method, ours, ", ".join(sorted(formula.names)), formula(numbers))
        return {**{n: v for n, v in entry.defaults.items() if n not in given}, **given}

    def _look(self, argument: str) -> Any:
        """The value of an argument, or of one inside it."""
        value: Any = self.values
        for name in argument.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        return value

    def _coerced(self, method: Method, ours: str, theirs: str, value: Any) -> Value:
        spec = method.entry.hyperparameters[ours]
        if spec.type == "int" and isinstance(value, list | Mapping):
            value = len(value)
        try:
            return coerced(ours, spec, value)
        except UsageError as error:
            raise self.refuse(theirs, value, f"a value of {method.id}'s {ours}", str(error)) from None

    def _nothing_left(self, entry: Implementation) -> None:
        """Raise ConfigError for an argument that says something that is not understood."""
        understood = {
            *STRUCTURE, *self.spec.patterns, *entry.set,
            *(theirs.partition(".")[0] for theirs in (*entry.rename.values(), *entry.write, *entry.apart.values())),
            *(name for formula in (*entry.read.values(), entry.trained, entry.stored, entry.added)
              if formula is not None for name in formula.names),
        }  # fmt: skip
        for name, value in self.values.items():
            inert = name not in self.filled and self.library.inert_at(name, value)
            if name in understood or value == self._default(name) or inert:
                continue
            if name in self.spec.noted:
                self.notes.append(f"{name}: {self.spec.noted[name]}")
            else:
                default = json.dumps(self._default(name))
                hint = f"no entry of type {self.type} says what it changes"
                raise self.refuse(name, value, f"{default}, its default", hint)

    def _as_written(self, entry: Implementation, known: Mapping[str, Any]) -> None:
        """Raise ConfigError for an argument that follows from the setting and the model, and that says otherwise."""
        read = {name for formula in entry.read.values() for name in formula.names}
        for name, formula in entry.write.items():
            value, expected = self.values[name], formula(known)
            if value != expected and name not in read and not self.library.inert_at(name, value):
                raise self.refuse(name, value, f"{expected}, with which these numbers hold")

    # On which modules

    def _chosen(
        self, method: Method, entry: Implementation, where: _Where, given: Mapping[str, Any],
        patterns: dict[str, dict[str, Value]],
    ) -> Chosen:  # fmt: skip
        targeted = any(part.entry.targets for part in (method, *(self.kb[i.method] for i in method.entry.includes)))
        sites = tuple(where.sites())
        if not targeted:
            return Chosen((), where.named)
        picked, rest = {}, sites
        for argument in dict.fromkeys(entry.apart.values()):
            names = self._look(argument) or []
            picked[argument] = tuple(where.among(sites, names, argument))
            rest = tuple(where.among(rest, names, argument, inside=False))
        apart = {tensor: picked[argument] for tensor, argument in entry.apart.items()}
        if apart:
            apart |= {n: rest for n, t in method.entry.tensors.items() if t.per == "site" and n not in apart}
            sites = (*(site for group in picked.values() for site in group), *rest)
        own: dict[SiteGroup, dict[str, Value]] = {}
        ours = {theirs: name for name, theirs in entry.rename.items()}
        for argument, pattern in self.spec.patterns.items():
            table = self.values[argument] or {}
            if not isinstance(table, Mapping):
                raise self.refuse(argument, table, f"expressions over names of modules, each with its {pattern.sets}")
            if table and pattern.sets not in ours:
                raise self.refuse(argument, table, f"nothing: {method.id} has no {pattern.sets}")
            if table:
                sites = tuple(self._split(sites, where, table, argument, method, ours[pattern.sets], own, patterns))
        if self.spec.of_experts is not None:
            name = ours[self.spec.of_experts]
            for site in sites:
                if (experts := _experts(site.module)) > 1:
                    before = own.get(site, {})
                    own[site] = {**before, name: experts * before.get(name, given[name])}
        return Chosen(sites, where.named, apart, own)

    def _split(
        self,
        sites: Sequence[SiteGroup],
        where: _Where,
        table: Mapping[str, Any],
        argument: str,
        method: Method,
        ours: str,
        own: dict[SiteGroup, dict[str, Value]],
        patterns: dict[str, dict[str, Value]],
    ) -> Iterator[SiteGroup]:
        """The sites, those apart whose modules a pattern of the table means; each has the first that does."""
        pattern = self.spec.patterns[argument]
        tests = [(pattern.compile(key), key) for key in where.expressions(table, argument)]
        used: set[str] = set()
        for site in sites:
            before = own.pop(site, {})
            groups: dict[str | None, list[int | None]] = {}
            for layer, path in site.paths():
                key = next((key for test, key in tests if test(path)), None)
                groups.setdefault(key, []).append(layer)
            for key, layers in groups.items():
                part = replace(site, layers=tuple(n for n in layers if n is not None))
                if key is not None:
                    used.add(key)
                    value = self._coerced(method, ours, f"{argument}.{key}", table[key])
                    own[part] = {**before, ours: value}
                    patterns.setdefault(key, {})[ours] = value
                elif before:
                    own[part] = before
                yield part
        for key in table.keys() - used:
            self.notes.append(f"{argument}: {shown(key)!r} means no targeted module.")


class _Where:
    """The modules that a configuration means, found by name as the library finds them."""

    def __init__(self, reading: _Reading, inventory: Inventory, saved: Sequence[str]):
        self.reading, self.inventory = reading, inventory
        values = reading.values
        self.targets = values.get("target_modules")
        self.saved = [*self._words("modules_to_save"), *saved]
        self.layers = self._layers()
        self.layer_patterns = [re.compile(rf"(?:^|.*?\.){p}\.(?P<idx>\d+)\.") for p in self._patterns("layers_pattern")]
        self.modules = self._replicated() if values.get("layer_replication") else inventory.modules
        self.leaves = [m for m in self.modules if m.kind != "parameter"]
        self.tying = self._tied() if values.get("ensure_weight_tying") else []
        if sum(m.kind == "embedding" for m in self.tying) > 1:
            reason = "false: stacks that share a table of embeddings are not counted"
            raise self.refuse("ensure_weight_tying", True, reason)
        self._excludes = self._excluded()
        self._matches = self._matcher()

    # Names

    def refuse(self, field: str, found: object, expected: str, hint: str = "") -> ConfigError:
        return self.reading.refuse(field, found, expected, hint)

    def _words(self, argument: str) -> list[str]:
        value = self.reading.values.get(argument)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(word, str) and word for word in value):
            raise self.refuse(argument, value, "a list of names")
        return value

    def expressions(self, found: Sequence[str] | Mapping[str, Any], argument: str) -> list[str]:
        """The texts, each a regular expression."""
        if not isinstance(found, list | Mapping):
            raise self.refuse(argument, found, "regular expressions")
        for text in found:
            try:
                re.compile(text)
            except (re.error, TypeError, RecursionError):
                raise self.refuse(argument, text, "a regular expression") from None
        return list(found)

    def _patterns(self, argument: str) -> list[str]:
        value = self.reading.values.get(argument)
        return self.expressions([value] if isinstance(value, str) and value else value or [], argument)

    def _layers(self) -> frozenset[int] | None:
        value = self.reading.values.get("layers_to_transform")
        if value is None or value == []:
            return None
        numbers = value if isinstance(value, list) else [value]
        if any(type(n) is not int for n in numbers):
            raise self.refuse("layers_to_transform", value, "numbers of layers")
        if isinstance(self.targets, str):
            raise self.refuse("layers_to_transform", value, "nothing, because target_modules is one expression")
        return frozenset(numbers)

    def _replicated(self) -> list[Module]:
        """The modules once layers are put in again, with the same weights and other numbers."""
        value, inventory = self.reading.values["layer_replication"], self.inventory
        asked = value if isinstance(value, list) else [value]
        ranges = [pair for pair in asked if isinstance(pair, list | tuple) and [*map(type, pair)] == [int, int]]
        [(_, count), *others] = inventory.backbone.layers.items()
        right = len(ranges) == len(asked) and all(0 <= start < stop <= count for start, stop in ranges)
        right = right and sum(stop - start for start, stop in ranges) <= MAX_LAYERS and not others
        layers = [n for start, stop in ranges for n in range(start, stop)] if right else []
        if {*layers} != {*range(count)}:
            expected = f"ranges [first, end] that together name each of the {count} layers of one stack"
            raise self.refuse("layer_replication", value, expected)
        if self.reading.values.get("bias", "none") != "none":
            raise self.refuse("bias", self.reading.values["bias"], "none, where layers share weights")
        return [
            replace(m, layers=tuple(n for n, was in enumerate(layers) if was in m.layers)) if m.layers else m
            for m in inventory.modules
        ]

    def _excluded(self) -> Callable[[str], bool]:
        value = self.reading.values.get("exclude_modules")
        saved = [re.compile(rf"(^|.*\.){name}($|\..*)") for name in self.expressions(self.saved, "modules_to_save")]
        by_name = self._by_name(value, "exclude_modules") if value else lambda path: False
        return lambda path: by_name(path) or any(test.match(path) for test in saved)

    def _by_name(self, value: Any, argument: str) -> Callable[[str], bool]:
        """Whether a name is meant: by an expression that it matches whole, or by a list of names or their ends."""
        if isinstance(value, str):
            [text] = self.expressions([value], argument)
            whole = re.compile(text)
            return lambda path: whole.fullmatch(path) is not None
        if not isinstance(value, list) or not all(isinstance(word, str) and word for word in value):
            raise self.refuse(argument, value, "names of modules, or one regular expression")
        ends = tuple(f".{word}" for word in value)
        return lambda path: f".{path}".endswith(ends)

    def _matcher(self) -> Callable[[str], bool]:
        if isinstance(self.targets, str) and self.targets.lower() == ALL_LINEAR:
            linear = {path for m in self.leaves if self._in_all_linear(m) for _, path in m.paths()}
            return linear.__contains__
        if self.targets == THE_EMBEDDING:
            return {m.path for m in self.leaves if m.role == INPUT_EMBEDDING and m.parameters}.__contains__
        if not self.targets:
            return lambda path: False
        meant = self._by_name(self.targets, "target_modules")
        exact = set(self.targets) if isinstance(self.targets, list) else set()
        return lambda path: meant(path) and (self.layers is None or path in exact or self._layer(path) in self.layers)

    def _in_all_linear(self, module: Module) -> bool:
        return module.kind in LINEAR and module.role != OUTPUT_EMBEDDING

    def _layer(self, path: str) -> int | None:
        tests = self.layer_patterns or [re.compile(r".*?\.[^.]*\.(?P<idx>\d+)\.")]
        found = next((match for test in tests if (match := test.match(path))), None)
        return None if found is None else int(found["idx"])

    def named(self, path: str) -> bool:
        """Whether a module of this name is meant."""
        return self._matches(path) and not self._excludes(path)

    # Sites

    def sites(self) -> Iterator[SiteGroup]:
        """The modules to act on. Raises ConfigError if there are none, or one of a kind that is not adapted."""
        self._named_well()
        found = [*self._targeted(), *self._parameters()]
        if not found:
            raise self._nothing()
        kinds = self.reading.spec.accepts
        for site in found:
            if site.module.kind not in (*kinds, "parameter"):
                what = f"{site.module.path}, of kind {site.module.kind}"
                raise self.refuse("target_modules", what, f"modules of kind {' or '.join(kinds)}")
        yield from found

    def _targeted(self) -> Iterator[SiteGroup]:
        together = self.tying if self._targets_embeddings() else []
        for module in self.leaves:
            paths = [(n, path) for n, path in module.paths() if self.named(path) or module in together]
            if paths:
                yield self._site(module, tuple(n for n, _ in paths if n is not None))

    def _targets_embeddings(self) -> bool:
        """Whether an embedding is a target by its common name, so that tied ones become targets together."""
        names = self.reading.library.embedding_names
        if isinstance(self.targets, str):
            return any(re.fullmatch(self.targets, name) for name in names)
        return any(word.rpartition(".")[2] in names for word in self.targets or ())

    def _site(self, module: Module, layers: tuple[int, ...]) -> SiteGroup:
        d_in = module.d_in
        if module.kind == "conv":  # its first factor is a convolution of the same kernel, its second mixes channels
            d_in = math.prod(dict(module.parameters)["weight"]) // module.d_out
        return SiteGroup(
            module, module.role, d_in, module.d_out, 0, module.d_out, module.bias, layers, module.stack
        )

    def _parameters(self) -> Iterator[SiteGroup]:
        """Matrices that are meant by their own name: the weight of a linear module, a bare one, or those of experts.
        Such a site's module has the parameter's name."""
        for name in self._words("target_parameters"):
            found = False
            for module in self.modules:
                for suffix, shape in module.parameters:
                    matrix = suffix == "weight" if module.kind in LINEAR else module.kind == "parameter"
                    one = replace(module, path=f"{module.path}.{suffix}")
                    layers = [n for n, path in one.paths() if f".{path}".endswith(f".{name}")]
                    if layers and matrix and len(shape) in (2, 3):
                        found = True
                        if module.kind == "parameter":
                            one = replace(one, d_out=shape[-2], d_in=shape[-1])
                        yield self._site(one, tuple(n for n in layers if n is not None))
            if not found:
                raise self.refuse("target_parameters", name, "the weight of a linear module, or of experts")

    def _named_well(self) -> None:
        """Note names that mean nothing; refuse those of modules that hold modules, and of experts."""
        experts, name = self.reading.backbone.family.expert_names, self.reading.library.name
        if experts and self.reading.raw.get("target_modules") is None:
            raise self.refuse("target_modules", "nothing", f"names: {name} has no default for a model with experts")
        for word in self.targets if isinstance(self.targets, list) else [str(self.targets)]:
            if experts and (isinstance(self.targets, str) or word.rpartition(".")[2] in experts):
                expected = f"other names; by this one {name} may mean tensors of experts, which are not counted"
                raise self.refuse("target_modules", word, expected)
        leaves = {path for m in self.leaves for _, path in m.paths()}
        holders = {path.rpartition(".")[0] for path in leaves} - {""}
        while above := {path.rpartition(".")[0] for path in holders} - holders - {""}:
            holders |= above
        wrong = min((path for path in holders - leaves if self.named(path)), default=None)
        if wrong is not None:
            raise self.refuse("target_modules", wrong, "modules; this one holds modules, so name those inside it")
        for word in self.targets if isinstance(self.targets, list) else ():
            if not any(f".{path}".endswith(f".{word}") for path in leaves):
                self.reading.notes.append(f"target_modules: {shown(word)!r} means no module of the model.")

    def _nothing(self) -> ConfigError:
        reading = self.reading
        if self.targets is None:
            kind = reading.backbone.family.model_type
            return self.refuse("target_modules", "nothing", f"names: {reading.library.name} has no default for {kind}")
        known = sorted({m.path.rpartition(".")[2] for m in self.leaves if m.kind in reading.spec.accepts})
        words = self.targets if isinstance(self.targets, list) else []
        matches = [match for word in words for match in near(word, known)]
        hint = f"did you mean {' or '.join(dict.fromkeys(matches))}?" if matches else ""
        expected = f"names that leave a module to act on; known: {', '.join(known)}"
        return self.refuse("target_modules", self.targets, expected, hint)

    def among(
        self, sites: Sequence[SiteGroup], names: Any, argument: str, inside: bool = True
    ) -> Iterator[SiteGroup]:
        """Those of the sites (in some of their layers) whose modules the names mean, or do not mean."""
        meant = self._picked(names, argument)
        for site in sites:
            layers = [n for n, path in site.paths() if meant(path) is inside]
            if layers:
                yield replace(site, layers=tuple(n for n in layers if n is not None))

    def _picked(self, names: Any, argument: str) -> Callable[[str], bool]:
        """Whether a target is picked: by an expression that its name matches whole, or by ends or parts of it."""
        if not isinstance(names, list) or not all(isinstance(word, str) for word in names):
            return self._by_name(names, argument)
        if self.reading.spec.picks.get(argument) == "part":
            return lambda path: any(word in path for word in names)
        return lambda path: path.endswith(tuple(names))

    # What is trained besides

    def extras(self, plan: Plan) -> Iterator[Extra]:
        """Everything that the configuration trains besides its method."""
        yield from self._copies()
        yield from self._biases(plan)
        yield from self._tokens()
        yield from self._embeddings(plan)

    def _copies(self) -> Iterator[Extra]:
        """Modules that are copied, trained and saved whole."""
        found = [m for m in self.leaves if any(self._saved(path) for _, path in m.paths())]
        if any(module in self.tying for module in found):  # one copy for all of them, in the file once for each
            found = [self.tying[0], *(m for m in found if m not in self.tying)]
            yield from (Extra(f"tied to it: {m.path}", 0, 0, self._numel(m)) for m in self.tying[1:])
        for module in found:
            copies = 1 if module in self.tying else sum(self._saved(path) for _, path in module.paths())
            yield Extra(f"modules_to_save: {module.path}", *[copies * self._numel(module)] * 3)

    def _saved(self, path: str) -> bool:
        parts = path.split(".")
        holders = (".".join(parts[: i + 1]) for i in range(len(parts)))
        return any(holder.endswith(tuple(self.saved)) for holder in holders) if self.saved else False

    def _shapes(self, module: Module) -> list[tuple[int, ...]]:
        """The shapes of a module's parameters, a tied one's too."""
        if module.parameters:
            return [shape for _, shape in module.parameters]
        return [(module.d_in, module.d_out), *([(module.d_out,)] if module.bias else [])]

    def _numel(self, module: Module) -> int:
        return sum(map(math.prod, self._shapes(module)))

    def _tied(self) -> list[Module]:
        """The modules that share one table of embeddings, the table's own first; none if none do."""
        tables = [m for m in self.leaves if m.kind == "embedding" and m.role == INPUT_EMBEDDING and m.parameters]
        tied = [m for m in self.leaves if m.kind in (*LINEAR, "embedding") and not m.parameters]
        return [*tables[:1], *tied] if tied else []

    def _biases(self, plan: Plan) -> Iterator[Extra]:
        word = self.reading.values.get("bias", "none")
        if word == "none":
            return
        twice = 0
        if word == "all":
            groups = [(m, sum(not self._saved(path) for _, path in m.paths())) for m in self.leaves]
            twice = 2 * sum((m.count - n) * self._bias(m) for m, n in groups)  # the frozen ones too, and by two names
        elif isinstance(word, str) and word.endswith("_only"):
            groups = [(site.module, site.count) for group in plan.sites for site in group]
        else:
            raise self.refuse("bias", word, "none, all, or a word that ends in _only")
        numel = sum(n * self._bias(m) for m, n in groups)
        yield Extra(f"bias: {word}", numel, 0, numel + twice)

    def _bias(self, module: Module) -> int:
        return math.prod(dict(module.parameters).get("bias", (0,)))

    def _tokens(self) -> Iterator[Extra]:
        """Rows of embeddings."""
        value = self.reading.values.get("trainable_token_indices")
        if value is None:
            return
        tables = [m for m in self.leaves if m.kind == "embedding" and m.role == INPUT_EMBEDDING]
        if not tables and not isinstance(value, Mapping):
            raise self.refuse("trainable_token_indices", value, "nothing: the model has no table of tokens")
        asked: Mapping[str, Any] = value if isinstance(value, Mapping) else {tables[0].path: value}
        tied = self._tied()
        seen: set[tuple[str, tuple[int, ...]]] = set()
        for name, rows in asked.items():
            if not isinstance(rows, list) or any(type(n) is not int for n in rows):
                raise self.refuse("trainable_token_indices", rows, "a list of numbers of tokens")
            modules = [m for m in self.leaves if m.path.endswith(name) and m.kind in (*LINEAR, "embedding")]
            if not modules:
                raise self.refuse("trainable_token_indices", name, "the name of an embedding")
            for module in modules:
                key = (tied[0].path if module in tied else module.path), tuple(rows)
                if key not in seen:
                    seen.add(key)
                    width = module.d_out if module.kind == "embedding" else module.d_in
                    numel = len(rows) * width
                    yield Extra(f"trainable_token_indices: {key[0]}", numel, numel, numel)

    def _embeddings(self, plan: Plan) -> Iterator[Extra]:
        """Embeddings that are saved whole beside their adapters, because one is targeted by a common name."""
        names = set(self.reading.library.embedding_names)
        if self.reading.values.get("trainable_token_indices") is not None:
            return
        if isinstance(self.targets, str) and self.targets != ALL_LINEAR:
            by_name = any(m.path.rpartition(".")[2] in names and self._matches(m.path) for m in self.leaves)
        else:  # of tied ones only the table's own name is left
            tied = {m.path.rpartition(".")[2] for m in self.tying[1:]}
            by_name = bool(self.targets != ALL_LINEAR and (names - tied) & set(self.targets or ()))
        for site in (site for group in plan.sites for site in group if by_name):
            if site.role in (INPUT_EMBEDDING, OUTPUT_EMBEDDING):
                numel = math.prod(self._shapes(site.module)[0])
                yield Extra(f"saved with its adapter: {site.module.path}", 0, 0, numel)


def _experts(module: Module) -> int:
    """How many matrices a bare parameter holds."""
    [(_, shape), *others] = module.parameters or [("", ())]
    return shape[0] if module.kind == "parameter" and len(shape) == 3 and not others else 1


def _besides(plan: Plan) -> dict[str, int]:
    """What the library's own formulas may name besides: of targeted modules with a bias the number and the widths, and
    how many modules share the table of the input embedding."""
    sites = [site for group in plan.sites for site in group if site.bias]
    tied = [m for m in plan.inventory.modules if m.kind in (*LINEAR, "embedding") and not m.parameters]
    return {
        "n_tied": len(tied),
        "n_biased": sum(site.count for site in sites),
        "biased_d_in": sum(site.count * site.d_in for site in sites),
        "biased_d_out": sum(site.count * site.d_out for site in sites),
    }


def _totals(cost: Cost) -> dict[str, int]:
    """Of each of our tensors, by name: how many there are, and their entries together."""
    found: dict[str, int] = {}
    for tensor in cost.tensors:
        for name, number in ((f"n_{tensor.name}", tensor.sites), (f"total_{tensor.name}", tensor.total)):
            found[name] = found.get(name, 0) + number
    return found


def _meets(value: Any, wanted: Any) -> bool:
    """Whether a given value is the wanted one: any list for a list, any mapping with its items for a mapping."""
    if isinstance(wanted, list):
        return isinstance(value, list) and bool(value)
    if isinstance(wanted, Mapping):
        return isinstance(value, Mapping) and all(_meets(value.get(k), v) for k, v in wanted.items())
    return bool(value == wanted) and isinstance(value, bool) == isinstance(wanted, bool)


def _numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments as formulas see them: a list or mapping as its length, nothing as zero."""
    return {
        name: len(value) if isinstance(value, list | Mapping) else 0 if value is None else value
        for name, value in values.items()
    }
