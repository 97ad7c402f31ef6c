"""Read a library's configuration that names modules: determine its method, setting, modules and counts.

Modules are resolved as the library resolves them. Every argument must be supported, known to change no tensor, or left
at its default. Anything else is an error, because the counts would be wrong.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ..backbones.backbone import Backbone
from ..backbones.modules import LINEAR, SiteGroup, totals
from ..costs.layout import NamedSites
from ..costs.plan import Plan
from ..costs.values import coerced
from ..errors import ConfigError, FormulaError, UsageError, shown
from ..schema.base import Value
from ..schema.implementations import Implementation

if TYPE_CHECKING:
    from ..backbones.backbone import Inventory
    from ..catalogue.records import MethodRecord, Records
    from ..schema.library import Library, Task

from .adapter import Adapter, module_sizes
from .arguments import Arguments, numbers
from .experts import convert
from .extras import Configured
from .loaded import Loaded, loaded
from .selected import ALL_LINEAR, STRUCTURE, matrices

__all__ = ["read_named"]


def read_named(
    kb: Records[Any],
    library: Library,
    source: str,
    raw: dict[str, Any],
    backbone: Backbone,
    method: str | None,
    task: str | None,
    num_labels: int,
    dtype: str,
) -> Adapter:
    """Read a configuration that names modules. `source` is its name in messages. Raises ConfigError, UsageError."""
    return _Reading(kb, library, source, raw, backbone).adapter(method, task, num_labels, dtype)


class _Reading(Arguments):
    """One configuration while its method is being determined."""

    def __init__(self, kb: Records[Any], library: Library, source: str, raw: dict[str, Any], backbone: Backbone):
        super().__init__(library, source, raw, backbone)
        self.kb = kb

    def adapter(self, wanted: str | None, task: str | None, num_labels: int, dtype: str) -> Adapter:
        method = self._method(wanted)
        entry = method.entry.implementations[self.library.id]
        given = self._hyperparameters(method, entry)
        said = self._said()
        inventory = self.backbone.inventory(task or self._task(said), num_labels)
        if said is not None and said.strict and inventory.task != said.task:
            expected = f"a type for a model with the task {inventory.task}"
            raise self.refuse("task_type", self.values["task_type"], expected)
        if said is not None and said.copies and "modules_to_save" not in self.values:
            expected = f"another one: {self.type} has no modules_to_save, and {self.library.name} fails without"
            raise self.refuse("task_type", self.values["task_type"], expected)
        saved = list(said.saved) if said is not None and "modules_to_save" in self.values else []
        if saved and said is not None and not said.all_linear:
            self._head_not_targeted(inventory, saved)
        self._nothing_left(entry, inventory)
        try:
            late = said is not None and not said.all_linear
            convert(self, inventory, saved, late=late)
            where = Configured(self, inventory, saved, late=late) if self.spec.accepts else None
            patterns: dict[str, dict[str, Value]] = {}
            chosen = None if where is None else self._chosen(method, entry, where, given, patterns)
            built_on = self._loaded(method, entry, inventory, given)
            if built_on is not None:
                chosen = NamedSites(built_on.sites, _nowhere)
            plan = Plan(method.parts, inventory, chosen=chosen, wider=entry.wider)
            if where is not None and not plan.targets:
                self._covered(method, where, plan)
            values = [plan.values({**given, **own}) for own in ({}, *patterns.values())]
            self._as_written(entry, {**plan.common, **values[0]})
            for name, domain in [one for own in values for one in plan.beyond(own)]:
                note = f"{self.library.name} accepts this value, but {method.id} requires {domain.source}."
                self.notes.append(f"{entry.rename[name]}: {note}")
        except UsageError as error:
            raise self._invalid(method, entry, error) from None
        for formula in (entry.trained, entry.stored, entry.added):
            if formula is not None and (told := {name for own in patterns.values() for name in own} & formula.names):
                named = ", ".join(entry.rename[name] for name in sorted(told))
                raise self.refuse(named, patterns, "one value for all modules, which the library's count needs")
        extras = tuple((where or Configured(self, inventory, saved)).extras(plan))
        groups = dict(_per_group(entry, plan, where, numbers(self.values))) if where is not None else {}
        if self.spec.mirrors:
            self._possible(method, entry, plan, given)
            groups |= self._mirrored(where or Configured(self, inventory, saved))
        if self.spec.loads is not None:
            groups |= {"loaded": 0, "loaded_trained": 0, "loaded_added": 0} if built_on is None else built_on.names
        notes = tuple(self.notes)
        adapter = Adapter(
            self.library, self.type, method, plan, self.values, given, patterns, extras, groups, notes, dtype
        )
        try:
            self._holds(entry, adapter)
            adapter.reported  # noqa: B018 (a setting that does not fit the model's sizes)
            found = [(note, formula(adapter.known)) for note, formula in entry.remarks.items()]
        except UsageError as error:
            raise self._invalid(method, entry, error) from None
        except FormulaError as error:
            raise self._invalid(method, entry, UsageError(str(error))) from None
        remarks = tuple(note.replace("{n}", f"{n:,}") for note, n in found if n)
        return replace(adapter, notes=notes + remarks) if remarks else adapter

    def _possible(self, method: MethodRecord, entry: Implementation, plan: Plan, given: Mapping[str, Any]) -> None:
        """Raise ConfigError if the method does not act on the model."""
        try:
            plan.cost(given)
        except UsageError as error:
            raise self._invalid(method, entry, error) from None

    def _invalid(self, method: MethodRecord, entry: Implementation, error: UsageError) -> ConfigError:
        """Return the error for arguments that the method, or the method on this model, does not accept."""
        renamed = [entry.rename[name] for name in sorted(error.about & entry.rename.keys())]
        read = {n for name in error.about & entry.read.keys() for n in entry.read[name].names if n in self.values}
        names = renamed or sorted(read) or (["target_modules"] if self.spec.accepts else [self.library.type_key])
        found = {name: self._look(name) for name in names} if len(names) > 1 else self._look(names[0]) or self.type
        return self.refuse(", ".join(names), found, f"a setting that {method.id} accepts", str(error))

    def _holds(self, entry: Implementation, adapter: Adapter) -> None:
        """Raise ConfigError for arguments that the library refuses on one of the targeted modules."""
        chosen = adapter.plan.chosen
        for formula in entry.holds:
            for site in (site for group in adapter.plan.sites for site in group):
                own = {} if chosen is None else chosen.own.get(site, {})
                if not formula({**adapter.known, **own, **module_sizes(site)}):
                    names = ", ".join(entry.rename[name] for name in sorted(formula.names & entry.rename.keys()))
                    expected = f"{formula.source}, which {self.library.name} requires of {site.module.path}"
                    raise self.refuse(names or "target_modules", self._look(names) or "nothing", expected)

    def _head_not_targeted(self, inventory: Inventory, saved: Sequence[str]) -> None:
        """Raise ConfigError if all-linear selects the task's head, which the library cannot then train in full."""
        targets = self.values.get("target_modules")
        heads = [m.path for m in inventory.modules if m.kind in LINEAR and m.path in saved]
        if isinstance(targets, str) and targets.lower() == ALL_LINEAR and heads:
            reason = f"{self.library.name} fails, because all-linear selects {heads[0]}, which it trains in full"
            raise self.refuse("target_modules", targets, f"names: {reason}")

    def _said(self) -> Task | None:
        word = self.values.get("task_type")
        if word is None:
            return None
        if not isinstance(word, str) or word not in self.library.tasks:
            raise self.refuse("task_type", word, f"one of {', '.join(self.library.tasks)}")
        return self.library.tasks[word]

    def _task(self, said: Task | None) -> str | None:
        if said is None:
            return None
        family = self.backbone.family
        if family.task_named(said.task) is None:
            expected = f"a task of {family.model_type}: {', '.join(family.tasks)}; or name one with --task"
            raise self.refuse("task_type", self.values["task_type"], expected)
        return said.task

    # The method

    def _method(self, wanted: str | None) -> MethodRecord:
        if wanted is not None:
            method: MethodRecord = self.kb[wanted]
            entry = method.entry.implementations.get(self.library.id)
            known = self.library.defaults(self.type).keys()
            if (
                entry is None
                or entry.type not in (None, self.type)
                or not known >= {theirs.partition(".")[0] for theirs in entry.rename.values()}
            ):
                raise UsageError(f"{wanted} is not a {self.library.name} configuration of type {self.type}")
            for name, value in entry.set.items():
                if not _meets(self.values.get(name), value) and name not in self.spec.alike:
                    raise self.refuse(name, self.values.get(name), f"{shown(value)}, as required for {wanted}")
            return method
        found = sorted(self._candidates(), key=lambda item: (*(-n for n in item[0]), item[1].year, item[1].id))
        if not found:
            raise self.refuse(self.library.type_key, self.type, "a type that an entry describes at these arguments")
        best = [method for score, method in found if score == found[0][0]]
        if len(best) > 1:
            others = ", ".join(m.id for m in best[1:])
            self.notes.append(f"Counted as {best[0].id}; {others} would be as well.")
        for name, value in best[0].entry.implementations[self.library.id].set.items():
            if not _meets(self.values.get(name), value):
                self.notes.append(f"{name}: {self.spec.alike[name]}")
        return best[0]

    def _candidates(self) -> Iterator[tuple[tuple[int, int, int], MethodRecord]]:
        """Yield the possible methods, each with the arguments that it explains: those that change tensors first.

        If a method's symbol is not the type's class, it needs more than a configuration (an optimiser, a quantised
        model). Then only the caller can name it.
        """
        for method in self.kb.values():
            entry = method.entry.implementations.get(self.library.id)
            if entry is None or entry.type != self.type:
                continue
            if entry.symbol is not None and entry.symbol.partition("(")[0] != self.spec.symbol:
                continue
            unmet = [name for name, value in entry.set.items() if not _meets(self.values.get(name), value)]
            if all(name in self.spec.alike for name in unmet):
                changing = sum(not self.library.inert_at(name, self.values[name]) for name in entry.set)
                yield (-len(unmet), changing, len(entry.set)), method

    # The setting

    def _hyperparameters(self, method: MethodRecord, entry: Implementation) -> dict[str, Any]:
        given: dict[str, Any] = {}
        known = numbers(self.values) | self.backbone.dims
        for ours, theirs in entry.rename.items():
            value = self._look(theirs)
            if ours in entry.defaults and theirs.partition(".")[0] not in self.raw:
                value = entry.defaults[ours]
            if value is not None:
                given[ours] = self._coerced(method, ours, theirs, value)
        for ours, formula in entry.read.items():
            given[ours] = self._coerced(method, ours, ", ".join(sorted(formula.names)), formula(known))
        return {**{n: v for n, v in entry.defaults.items() if n not in given}, **given}

    def _look(self, argument: str) -> Any:
        """Return the value of an argument, or of an argument inside it."""
        value: Any = self.values
        for name in argument.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        return value

    def _coerced(self, method: MethodRecord, ours: str, theirs: str, value: Any) -> Value:
        spec = method.entry.hyperparameters[ours]
        if theirs in (*self.library.counted, *self.library.files) and isinstance(value, list | Mapping):
            value = len(value)
        try:
            return coerced(ours, spec, value)
        except UsageError as error:
            raise self.refuse(theirs, value, f"a value of {method.id}'s {ours}", str(error)) from None

    def _nothing_left(self, entry: Implementation, inventory: Inventory) -> None:
        """Raise ConfigError for an argument with a value that is not supported."""
        understood = {
            *(STRUCTURE if self.spec.accepts else ["modules_to_save"]), *self.spec.patterns, *entry.set,
            *([] if self.spec.loads is None else [self.spec.loads.trained]),
            *(theirs.partition(".")[0] for theirs in (*entry.rename.values(), *entry.write, *entry.apart.values())),
            *(name for formula in (*self.spec.computes.values(), *entry.read.values(), *entry.fit.values(),
                                   *entry.per_site.values(), *entry.per_group.values(), entry.trained, entry.stored,
                                   entry.added)
              if formula is not None for name in formula.names),
        }  # fmt: skip
        for name, value in self.values.items():
            if self.spec.mirrors and name == "target_modules" and value is not None:
                continue
            inert = name not in self.filled and self.library.inert_at(name, value)
            if name in understood or value == self._default(name) or inert:
                continue
            if name in self.spec.noted:
                self.notes.append(f"{name}: {self.spec.noted[name]}")
            elif name in self.spec.mirrors:
                self.notes.append(f"{name}: only {self.library.name}'s counts include it.")
            else:
                default = json.dumps(self._default(name))
                hint = f"no entry of type {self.type} describes its effect"
                raise self.refuse(name, value, f"{default}, its default", hint)

    def _as_written(self, entry: Implementation, known: Mapping[str, Any]) -> None:
        """Raise ConfigError for an argument that differs from the value implied by the setting and the model."""
        used = (*entry.read.values(), *filter(None, (entry.trained, entry.stored, entry.added)))
        read = {name for formula in used for name in formula.names}
        inert = self.library.inert_at
        for name, formula in entry.write.items():
            value, expected = self.values[name], formula(known)
            if value == expected or inert(name, value):
                continue
            if name in self.filled and name in read:
                whose = f"{self.library.name} sets it to" if value == self.filled[name] else "the counts are for"
                self.notes.append(f"{name}: {whose} {value}, where the model has {expected}.")
            elif name not in read or name in self.filled:
                raise self.refuse(name, value, f"{expected}, the value for which the counts are correct")

    def _mirrored(self, where: Configured) -> dict[str, int]:
        """Return the names for formulas about the model that the type adds, and the number of modules that it wraps."""
        family, sizes = self.backbone.family, dict(self.backbone.config)
        labels = {label: name for name, key in family.config.items() for label in (key.key or name, *key.aliases)}
        for argument, keys in self.spec.mirrors.items():
            if (value := self.values[argument]) is None:
                continue
            if type(value) is not int or value < 1:
                raise self.refuse(argument, value, "a whole number from 1")
            named = next((labels[key] for key in keys if key in labels), None)
            if named is None:
                expected = f"nothing: {self.library.name} looks for {', '.join(keys)} in the model's config"
                raise self.refuse(argument, value, expected)
            for key in family.config.values():
                if key.type == "layers" and key.over is not None and named in key.over.names and sizes[named] < value:
                    raise self.refuse(argument, value, f"at most the model's {sizes[named]}, as its layers differ")
            sizes[named] = value
        for name, key in family.config.items():
            if key.follows and key.default is not None and self.backbone.raw.get(key.key or name) is None:
                sizes[name] = key.default(sizes)
        inventory = Backbone(self.backbone.id, family, sizes).inventory("none")
        said = self._said()
        heads = said.saved if said is not None else []
        return {
            "mirror": inventory.total, "mirror_width": inventory.dims["d_model"], "n_wrapped": len(where.wrapped),
            "task_head": sum(m.numel for m in where.modules if m.path.partition(".")[0] in heads),
        }  # fmt: skip

    def _loaded(
        self, method: MethodRecord, entry: Implementation, inventory: Inventory, given: dict[str, Any]
    ) -> Loaded | None:
        """Return the adapters that the configuration names, and set the hyperparameters that they share."""
        if self.spec.loads is None:
            return None

        def read(source: str, raw: dict[str, Any]) -> Adapter:
            asked = inventory.task, inventory.num_labels, "float32"
            return read_named(self.kb, self.library, source, raw, self.backbone, None, *asked)

        found = loaded(self, self.spec.loads, inventory, read)
        if found is None:
            return None
        values = found.alike(method.entry.hyperparameters.keys() - {*entry.rename, *entry.read})
        if values is None:
            argument = self.spec.loads.argument
            self.notes.append(f"{argument}: {method.id} has adapters of one size only; its ledgers assume that.")
        given |= values or {}
        return found

    # The modules

    def _chosen(
        self, method: MethodRecord, entry: Implementation, where: Configured, given: Mapping[str, Any],
        patterns: dict[str, dict[str, Value]],
    ) -> NamedSites:  # fmt: skip
        targeted = any(part.entry.targets for part in (method, *(self.kb[i.method] for i in method.entry.includes)))
        sites = tuple(where.sites())
        if self.spec.rows and isinstance(rows := self.values[self.spec.rows], list):
            for site in sites:
                where.has_rows(site.module, self.spec.rows, [n for n in rows if type(n) is int])
        if not targeted:
            return NamedSites((), where.named)
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
            name = ours.get(self.spec.of_experts, "")
            for site in sites:
                if (experts := matrices(site.module)) > 1:
                    before = own.get(site, {})
                    if name not in given:
                        expected = f"other modules: {method.id} has no {self.spec.of_experts} to multiply for experts"
                        raise self.refuse("target_modules", site.module.path, expected)
                    own[site] = {**before, name: experts * before.get(name, given[name])}
        model = numbers(self.values) | self.backbone.dims | dict(given) | totals(sites) if entry.fit else {}
        model |= {f"global_{name}": value for name, value in given.items()}
        model["n_weights"] = sum(site.count * site.d_in * site.d_out for site in sites)
        for site in sites if entry.fit else ():
            before = own.get(site, {})
            known = model | before | module_sizes(site)
            own[site] = {**before, **{name: formula(known) for name, formula in entry.fit.items()}}
        for site in sites if entry.divides else ():
            values, sizes = {**given, **own.get(site, {})}, module_sizes(site)
            named = [(name, sizes[size]) for name, size in entry.divides.items() if values.get(name)]
            own[site] = {**own.get(site, {}), **{name: _divisor(width, values[name]) for name, width in named}}
        return NamedSites(sites, where.named, apart, own)

    def _covered(self, method: MethodRecord, where: Configured, plan: Plan) -> None:
        """Raise ConfigError for a target that no tensor of a method without targets acts on."""
        spots = [spot for piece in plan.pieces for _, spot in piece.group.spots]
        paths = {spot.path.removesuffix(f".{spot.suffix}") for spot in spots}
        for site in where.sites():
            if site.module.path not in paths:
                raise self.refuse("target_modules", site.module.path, f"modules on which a tensor of {method.id} acts")

    def _split(
        self,
        sites: Sequence[SiteGroup],
        where: Configured,
        table: Mapping[str, Any],
        argument: str,
        method: MethodRecord,
        ours: str,
        own: dict[SiteGroup, dict[str, Value]],
        patterns: dict[str, dict[str, Value]],
    ) -> Iterator[SiteGroup]:
        """Yield the sites, with those whose modules match a pattern of the table separate.

        The first matching pattern counts.
        """
        pattern = self.spec.patterns[argument]
        tests = [*zip(where.tests(table, argument, *pattern.frame), table, strict=True)]
        if pattern.where != "anywhere":  # what matches no expression is looked up by its whole name
            tests += [(partial(_whole, key), key) for key in table]
        used: set[str] = set()
        for site in sites:
            before = own.pop(site, {})
            groups: dict[str | None, list[int | None]] = {}
            for layer, path in site.paths():
                key = next((key for test, key in tests if test(path) is not None), None)
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
            self.notes.append(f"{argument}: {shown(key)!r} matches no targeted module.")


def _nowhere(path: str) -> bool:
    return False


def _whole(name: str, path: str) -> dict[str, str] | None:
    """Return a match without groups if the path is the name."""
    return {} if path == name else None


def _divisor(width: int, value: int) -> int:
    """Return the divisor of a width that is nearest to a value, the lower one of two."""
    return min((n for n in range(1, width + 1) if width % n == 0), key=lambda n: (abs(n - value), n))


def _per_group(
    entry: Implementation, plan: Plan, where: Configured, arguments: Mapping[str, Any]
) -> Iterator[tuple[str, int]]:
    """Yield the library's sums over groups of targeted modules."""
    if entry.per_group:
        known = {**arguments, **plan.common}
        groups = [{**known, **module_sizes(site), "n": n} for site, n in where.grouped(plan, entry.group_by)]
        yield from ((name, sum(map(formula, groups))) for name, formula in entry.per_group.items())


def _meets(value: Any, wanted: Any) -> bool:
    """Return True if a value matches the wanted one: any list for a list, any mapping with its items for a mapping."""
    if isinstance(wanted, list):
        return isinstance(value, list) and bool(value)
    if isinstance(wanted, Mapping):
        return isinstance(value, Mapping) and all(_meets(value.get(k), v) for k, v in wanted.items())
    return bool(value == wanted) and isinstance(value, bool) == isinstance(wanted, bool)
