"""Write a library's configuration: the call and the saved form of a method at a setting, on a model's modules.

    >>> import peftonomy
    >>> kb = peftonomy.load()
    >>> config = kb["lora"].export("llama_2_7b", r=8, targets=["attn.q", "attn.v"])
    >>> print(config.python)
    import peft
    <BLANKLINE>
    config = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=8,
        lora_alpha=8,
        lora_dropout=0.0,
        lora_bias=False,
        target_modules=["q_proj", "v_proj"],
    )
    model = peft.get_peft_model(model, config)

The entry's `implementations` and the library's own file provide everything. Reading the written configuration
(`KnowledgeBase.adapter`) gives the same cost.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from ..backbones.modules import Module, SiteGroup
from ..errors import ConfigError, UnknownName, UsageError, shown
from .loading import loading

if TYPE_CHECKING:
    from ..catalogue.records import MethodRecord
    from ..costs.plan import Plan
    from ..schema.implementations import Implementation
    from ..schema.library import Library

__all__ = ["Configuration", "export", "library_called", "literal", "put", "target_names"]


@dataclass(frozen=True)
class Configuration:
    """A method's configuration in a library: its class and the arguments of the call.

    type: the library's name for it; None for a configuration whose arguments are themselves of class `Configuration`.
    """

    library: Library
    symbol: str
    type: str | None
    method: str
    arguments: dict[str, Any]
    model: str = ""
    """The call that loads the model."""

    @property
    def script(self) -> str:
        """The complete program up to the adapted model: imports, the model, the configuration, the printed counts."""
        package, _, applied = self.python.partition("\n\n")
        lines = (package, "import transformers", "", f"model = {self.model}", "", applied, *self.library.report)
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return the essential keys of the file that the library would save."""
        if self.type is None:
            parts = [part.to_dict() for part in self.arguments.values()]
            return {self.library.type_key: self.library.union, "configs": parts}
        kind = self.library.types[self.type]
        named = kind.saved if "saved" in kind.model_fields_set else self.type
        return {self.library.type_key: named, **self._of_class, **self.arguments}

    @property
    def _of_class(self) -> dict[str, Any]:
        """The class's own defaults, if a saved configuration does not name the class."""
        kind = str(self.type)
        base = self.library.type_saved_as(self.library.types[kind].saved)
        if "saved" not in self.library.types[kind].model_fields_set or base is None or base == kind:
            return {}
        usual, needed = self.library.defaults(base), self.library.types[base].needs
        return {n: v for n, v in self.library.defaults(kind).items() if n in needed or usual.get(n) != v}

    @property
    def python(self) -> str:
        """The call, for a model in the variable `model`."""
        arguments = "".join(f"    {name}={literal(value)},\n" for name, value in self.arguments.items())
        call = f"config = {self._class}(\n{arguments})"
        usage = (line.format(config="config") for line in self.library.usage)
        return "\n".join((f"import {self.library.package}", "", call, *usage))

    @property
    def _class(self) -> str:
        return f"{self.library.package}.{self.symbol}"

    def __repr__(self) -> str:
        return f"{self._class}({', '.join(f'{name}={literal(value)}' for name, value in self.arguments.items())})"


def library_called(libraries: Mapping[str, Library], name: str, others: Iterable[str] = ()) -> Library:
    """Return the library with this id or package. Raises UnknownName, which also lists the `others`."""
    for library in libraries.values():
        if name in (library.id, library.package):
            return library
    raise UnknownName("library", name, [*(library.package for library in libraries.values()), *others])


def export(method: MethodRecord, plan: Plan, given: Mapping[str, Any], library: Library) -> Configuration:
    """Write a method's configuration. See `Method.export`."""
    entry = method.entry.implementations.get(library.id)
    if entry is not None and entry.unites:
        return _accepted(method, replace(_union(method, entry, plan, given, library), model=_loaded(plan)), plan)
    if entry is None or entry.type is None:
        reason = "" if entry is None or entry.symbol is None else f"; there it is {entry.symbol}"
        raise UsageError(f"{library.name} has no configuration that makes {method.id}{reason}")
    values = plan.values(given)
    for name in plan.named(given):
        _expressed(method, [entry], library, name, values[name])
    return _accepted(method, replace(_written(method, entry, plan, values, library), model=_loaded(plan)), plan)


def _accepted(method: MethodRecord, found: Configuration, plan: Plan) -> Configuration:
    """Return a configuration. Raises UsageError if it cannot be read again, because the library refuses it here."""
    from .located import check_located
    from .named import read_named

    inventory, library = plan.inventory, found.library
    try:
        if library.builds:
            check_located(library, library.name, found.to_dict(), inventory)
        else:
            where = method.id, inventory.task, inventory.num_labels, "float32"
            read_named(method.kb, library, library.name, found.to_dict(), inventory.backbone, *where)
    except ConfigError as error:
        raise UsageError(f"{method.id} on {inventory.backbone.id}: {error}") from None
    return found


def _loaded(plan: Plan) -> str:
    """Return the call of `transformers` that loads the plan's model for its task."""
    inventory = plan.inventory
    load, arguments = loading(inventory.backbone, inventory.task, inventory.num_labels)
    return f"{load}({', '.join(arguments)})"


def _union(
    method: MethodRecord, entry: Implementation, plan: Plan, given: Mapping[str, Any], library: Library
) -> Configuration:
    """Return a configuration that contains the configurations of other methods."""
    values = plan.values(given)
    parts = {name: method.kb[part] for name, part in entry.unites.items()}
    entries = {name: part.entry.implementations[library.id] for name, part in parts.items()}
    for name in plan.named(given):
        _expressed(method, entries.values(), library, name, values[name])
    arguments = {name: _written(part, entries[name], plan, values, library) for name, part in parts.items()}
    for part in arguments.values():
        part.arguments.update(copy.deepcopy(entry.set))
    return Configuration(library, str(entry.symbol), None, method.id, arguments)


def _written(
    method: MethodRecord, entry: Implementation, plan: Plan, values: Mapping[str, Any], library: Library
) -> Configuration:
    """Return a configuration at a setting; an argument without a value keeps the library's default."""
    known = {**plan.common, **values}
    written: dict[str, Any] = {}
    said: Iterable[tuple[str, Any]] = (
        *copy.deepcopy(entry.set).items(),
        *((theirs, values[ours]) for ours, theirs in entry.rename.items() if ours in values),
        *((theirs, formula(known)) for theirs, formula in entry.write.items()),
    )
    for name, value in said:
        put(written, name, value)
    kind = str(entry.type)
    defaults = library.defaults(kind)
    arguments = {
        name: list(range(value)) if name in library.counted
        else {str(n): f"path/to/{n}" for n in range(value)} if name in library.files
        else _as_there(value, defaults.get(name))
        for name, value in written.items()
    }
    head = {"task_type": task} if "task_type" in defaults and (task := _task(library, plan)) else {}
    arguments = {**head, **arguments}
    for name, value in _modules(entry, plan, library).items():
        put(arguments, name, value)
    return Configuration(library, library.types[kind].symbol, kind, method.id, arguments)


def _expressed(
    method: MethodRecord, entries: Iterable[Implementation], library: Library, name: str, value: Any
) -> None:
    """Raise UsageError for a value of a hyperparameter that has no argument in the library."""
    there = method.entry.hyperparameters[name].default
    for entry in entries:
        if name in entry.rename or name in entry.read or any(name in formula.names for formula in entry.write.values()):
            return
        there = entry.defaults.get(name, there)
    if value != there:
        raise UsageError(f"{library.name} has no argument for {method.id}'s {name}: there it is {there}")


def put(arguments: dict[str, Any], name: str, value: Any) -> None:
    """Set an argument; a dotted name is an item of a mapping. Raises UsageError if another value is in its place."""
    *above, last = name.split(".")
    for holder in above:
        arguments = arguments.setdefault(holder, {})
        if not isinstance(arguments, dict):
            raise UsageError(f"{shown(name)}: found {shown(arguments)} for {shown(holder)}; expected a mapping")
    arguments[last] = value


def misplaced(said: Iterable[tuple[str, Any]]) -> Iterator[str]:
    """Yield the names of arguments that `put` cannot set after those before them."""
    arguments: dict[str, Any] = {}
    for name, value in said:
        try:
            put(arguments, name, copy.deepcopy(value))
        except UsageError:
            yield name


def _as_there(value: Any, default: Any) -> Any:
    """Return a value in the library's form: with the type and the case of the library's default."""
    if isinstance(value, str) and isinstance(default, str) and default.isupper():
        return value.upper()
    whole = isinstance(value, float) and value == int(value)
    return int(value) if whole and isinstance(default, int) and not isinstance(default, bool) else value


def _task(library: Library, plan: Plan) -> str | None:
    family, named = plan.inventory.backbone.family, (plan.inventory.task, plan.inventory.computed)
    return next((n for n, t in library.tasks.items() if t.task in named and t.kind in (None, family.kind)), None)


# The modules


def _modules(entry: Implementation, plan: Plan, library: Library) -> dict[str, Any]:
    """Return the arguments that name the modules. Raises UsageError for modules that the library cannot adapt."""
    kind = library.types[str(entry.type)]
    roles, accepts = library.roles(str(entry.type)), kind.accepts
    if roles:
        return _by_role(plan, roles, f"{library.name}' {entry.type}")
    if not accepts:
        return {}
    if plan.target_modules is not None and not entry.apart:
        named: Any = plan.target_modules
        return {"target_modules": list(named) if isinstance(named, tuple) else named}
    sources = _sources(plan)
    meant = _meant(plan, accepts, f"{library.name}'s {entry.type}")
    every = _every(plan)
    named, targeted = (every, _suffixes), _paths(meant)
    apart: dict[str, list[str]] = {}
    rest = list(meant)
    for argument in dict.fromkeys(entry.apart.values()):
        tensors = [tensor for tensor, its in entry.apart.items() if its == argument]
        group = list(dict.fromkeys(s for name, s in sources if name in tensors and isinstance(s, SiteGroup)))
        apart[argument] = _names(group, named, (targeted, _PICKS[kind.picks[argument]]))
        rest = [source for source in rest if source not in group]
    return {"target_modules": sorted({*_names(rest, named), *(n for names in apart.values() for n in names)}), **apart}


def target_names(plan: Plan, accepts: Iterable[str], label: str) -> list[str]:
    """Return names that select the targeted modules and no others, by their endings.

    Raises UsageError for modules of other kinds than `accepts`; `label` says what cannot adapt them.
    """
    if isinstance(plan.target_modules, tuple):
        return list(plan.target_modules)
    return _names(_meant(plan, accepts, label), (_every(plan), _suffixes))


def _sources(plan: Plan) -> list[tuple[str, Any]]:
    """Return the tensors of the plan with the modules to which they belong."""
    return [(piece.name, spot.source) for piece in plan.pieces for _, spot in piece.group.spots]


def _meant(plan: Plan, accepts: Iterable[str], label: str) -> dict[SiteGroup | Module, None]:
    """Return the targeted modules. Raises UsageError for a module of another kind than `accepts`."""
    meant = dict.fromkeys(s for _, s in _sources(plan) if isinstance(s, SiteGroup | Module))
    for source in meant:
        _acceptable(source, accepts, label)
    return meant


def _every(plan: Plan) -> list[str]:
    """Return the names of all modules of the model."""
    return [path for m in plan.inventory.modules if m.kind != "parameter" for _, path in m.paths()]


def _by_role(plan: Plan, roles: Mapping[str, Mapping[str, Any]], label: str) -> dict[str, Any]:
    """Return the arguments that select the targeted roles.

    Raises UsageError if there are none, or if they select more.
    """
    targeted = dict.fromkeys(site.role for group in plan.sites for site in group)
    said: dict[str, Any] = {}
    for role in targeted:
        if role not in roles:
            raise UsageError(f"{label} does not act on {role}; it does on {', '.join(roles)}")
        for name, value in roles[role].items():
            together = isinstance(value, list)
            said[name] = list(dict.fromkeys([*said.get(name, []), *value])) if together else value
    for role in roles.keys() & set(plan.inventory.roles()) - targeted.keys():
        if all(_covers(said.get(name), value) for name, value in roles[role].items()):
            raise UsageError(f"{label} cannot leave out {role} where it acts on {', '.join(targeted)}")
    for name, value in ((n, v) for asked in roles.values() for n, v in asked.items()):
        said.setdefault(name, [] if isinstance(value, list) else not value)
    return said


def _covers(said: Any, value: Any) -> bool:
    return isinstance(said, list) and all(v in said for v in value) if isinstance(value, list) else bool(said == value)


def _acceptable(source: SiteGroup | Module, accepts: Iterable[str], label: str) -> None:
    module = source.module if isinstance(source, SiteGroup) else source
    if module.kind not in accepts:
        raise UsageError(f"{label} has no layer for {module.path}, which is of kind {module.kind}")
    if isinstance(source, SiteGroup) and not source.whole:
        raise UsageError(f"{label} acts on whole modules; {source.role} is a slice of {module.role}, so target that")


def _paths(sources: Iterable[SiteGroup | Module]) -> list[str]:
    return [path for source in sources for _, path in source.paths()]


Meaning = Callable[[Sequence[str]], Callable[[str], bool]]
"""A function from names of modules to a predicate that is true if an ending matches one of these names."""


def _suffixes(paths: Sequence[str]) -> Callable[[str], bool]:
    return {ending for path in paths for ending in _endings(path)}.__contains__


def _endings(path: str) -> Iterator[str]:
    """Yield the endings of a name that begin after a dot, from the shortest to the name itself."""
    at = len(path)
    while at >= 0:
        at = path.rfind(".", 0, at)
        yield path[at + 1 :]


def _text(paths: Sequence[str]) -> str:
    return "\n".join(["", *paths, ""])


def _ends(text: str) -> Callable[[str], bool]:
    return lambda ending: f"{ending}\n" in text


_PICKS: dict[str, Meaning] = {
    "end": lambda paths: _ends(_text(paths)),
    "part": lambda paths: _text(paths).__contains__,
}
"""The ways in which an argument selects targets: `ConfigType.picks`."""


def _names(sources: Iterable[SiteGroup | Module], *among: tuple[Iterable[str], Meaning]) -> list[str]:
    """Return the shortest endings of module names that match these modules and no others.

    Raises UsageError for a module whose whole name also matches another one.
    """
    wanted = set(_paths(sources))
    others = [means([path for path in paths if path not in wanted]) for paths, means in among]
    fits = cache(lambda ending: not any(matches(ending) for matches in others))
    names: set[str] = set()
    for path in wanted:
        if (name := next(filter(fits, _endings(path)), None)) is None:
            raise UsageError(f"no name selects {path} alone: other modules match it too; target them together")
        names.add(name)
    return sorted(names)


def literal(value: Any) -> str:
    """Return a value as Python code, with texts in double quotes."""
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{literal(k)}: {literal(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(literal, value)) + "]"
    return repr(value)
