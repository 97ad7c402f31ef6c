"""The schema of a library's configurations: its types, their arguments with defaults, and the default target modules.

Facts about a library as a whole are in `taxonomy/libraries/<id>.yaml`. The names of one method's hyperparameters in the
library are in that method's entry (`Implementation`). Both are needed to read a configuration (`libraries.named`) and
to write one (`libraries.export`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from ..errors import chosen
from ..files.documents import load_yaml
from .base import Argument, Citation, Entry, FormulaField, Id, Line, Name, Prose, Role, Stem, validated
from .builds import Build, Host, Shorthand
from .support import Ability, Aspect, Support

__all__ = ["ConfigType", "Introspection", "Library", "Loads", "OldExperts", "Task", "load_library"]

Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+$", max_length=60)]
Kind = Literal["linear", "conv1d", "embedding", "conv", "norm"]


class Task(Entry):
    """A task of the library: our task, and the modules that the library trains in full by itself."""

    task: Id
    kind: Word | None = None
    """Only for families of this kind."""
    saved: list[Stem] = Field(default=[])
    copies: bool = False
    """True if the library fails with types that have no `modules_to_save`."""
    strict: bool = False
    """True if the library refuses a model for another task."""
    all_linear: bool = False
    """True if "all-linear" leaves these modules out. Otherwise the library fails if it selects one of them."""


class ByModel(Entry):
    """A default that depends on the model: `model_type` to names of modules, or to one regular expression."""

    like: Id | None = None
    """Another table on which this one is based."""
    without: list[Stem] = Field(default=[])
    """The rows of that table to leave out."""
    models: dict[Stem, list[Stem] | Stem] = Field(default={})


class Pattern(Entry):
    """An argument that maps expressions over module names to values of another argument. The first match counts."""

    sets: Name
    where: Literal["end", "below", "anywhere"] = "end"
    """The part of the name to match. `end`: the whole name, or its end after a dot. `below`: its end after a dot.
    `anywhere`: any part."""

    @property
    def frame(self) -> tuple[str, Literal["match", "search"]]:
        """The expression around the user's, which replaces `{}`, and the way of matching it."""
        if self.where == "anywhere":
            return "{}", "search"
        return r"(.*\.)?({})$" if self.where == "end" else r".*\.{}$", "match"


class Limit(Entry):
    """A condition on the arguments under which the library adapts some kinds of module only."""

    when: FormulaField
    """As in `ConfigType.requires`, also with the names `given_X`."""
    kinds: list[Kind | Literal["parameter", "tensor"]]
    """`parameter` stands for a module's weight that is targeted by its own name, `tensor` for any other parameter."""


class OldExperts(Entry):
    """Model families whose experts had linear modules of their own in older releases of `transformers`."""

    names: dict[Name, Stem]
    """The older names, each with the parameter that contains these matrices of all experts today. A parameter with
    several names contains them side by side."""
    models: list[Stem]
    """The families by `model_type`."""

    @cached_property
    def fused(self) -> dict[str, list[str]]:
        """The parameters that contain several matrices of each expert, with the older names of these."""
        found = {new: [name for name, whose in self.names.items() if whose == new] for new in self.names.values()}
        return {new: parts for new, parts in found.items() if len(parts) > 1}


class Loads(Entry):
    """Adapters that were trained before, which a configuration names by their folders."""

    argument: Name
    """The argument that maps names to folders."""
    type: Word
    """The type of the adapters."""
    trained: Name
    """The argument that trains them. The library numbers the adapters, and trains those whose name is their number."""
    below: Stem
    """The beginning of the names of all modules that the library finds when it loads the adapters."""


class ConfigType(Entry):
    """One type of configuration."""

    symbol: Stem
    """The class of the configuration."""
    saved: Stem | None = None
    """The type's name in a saved configuration, if it differs; null if the configuration has no type."""
    like: Word | None = None
    """Another type whose arguments this one inherits, and whose roles it inherits if it declares none."""
    roles: dict[Role, dict[Name, Any]] = Field(default={})
    """The arguments, with values, that select one of our roles. Lists are concatenated."""
    accepts: list[Kind] = Field(default=[])
    """The kinds of module that the type adapts and that an entry can count."""
    limits: list[Limit] = Field(default=[])
    """Arguments with which the library refuses some of these kinds."""
    otherwise: Stem | None = None
    """The targets if neither the configuration nor a table names modules: all-linear, or input-embedding."""
    by_model: dict[Name, Id] = Field(default={})
    """Arguments whose default depends on the model, each with the table of defaults."""
    patterns: dict[Name, Pattern] = Field(default={})
    picks: dict[Argument, Literal["end", "part"]] = Field(default={})
    """Arguments that select some of the targets, by the end of a module's name or by any part of it."""
    needs: list[Name] = Field(default=[])
    """Arguments without a default. The library fails if they are absent."""
    fills: dict[Name, FormulaField] = Field(default={})
    """Sizes that the library takes from the model if they are absent. They are computed in order, by formulas over the
    model's dimensions and the arguments. `given_X` is 1 if the configuration has argument X. `model_X` is the value of
    X in the model's config, or 0."""
    computes: dict[Name, FormulaField] = Field(default={})
    """Sizes that the library computes from the arguments, given and filled in. They are computed in order."""
    requires: list[FormulaField] = Field(default=[])
    """Conditions on the arguments without which the library raises an error. An absent argument counts as 0, and a list
    as its length."""
    decides: dict[Line, FormulaField] = Field(default={})
    """Conditions on the arguments without which the counts do not follow from the configuration, by the reason."""
    fails: dict[Stem, Line] = Field(default={})
    """Models by `model_type` on which the library fails with this type, each with the reason."""
    unfilled: dict[Stem, list[Name]] = Field(default={})
    """Models by `model_type`, each with arguments that the library cannot take from the model if they are absent."""
    within: dict[Name, Name] = Field(default={})
    """Arguments that are lists whose words must be in the list of another argument, if a configuration has both."""
    alike: dict[Name, Line] = Field(default={})
    """Arguments whose other values give another method that is counted by the same entry, each with a note."""
    refuses: list[Literal["layers_of_expression", "pattern_of_expression", "pattern_alone"]] = Field(default=[])
    """Arguments that the library refuses: `layers_to_transform` or `layers_pattern` if `target_modules` is one
    expression, and `layers_pattern` without `layers_to_transform`."""
    expects: dict[Name, Line] = Field(default={})
    """Arguments without which the library's usual call fails, each with a note that says so."""
    only: Name | None = None
    """The argument in `by_model` whose table lists the only models that the type supports."""
    lists: list[Name] = Field(default=[])
    """Arguments that map names to lists."""
    rows: Name | None = None
    """The argument that lists rows of the targeted modules' weights."""
    children: bool = False
    """True if the library freezes the model's children only, so that its own parameters stay trained."""
    fractions: list[Name] = Field(default=[])
    """Arguments of which 1 is a number, and 1.0 is the whole of a module."""
    wraps: bool = False
    """True if the type puts a module around each layer, so that names across it change."""
    mirrors: dict[Name, list[Name]] = Field(default={})
    """If the type adds a model of the same class without a head: the arguments that change sizes in its config, each
    with the names of the size, of which the first one that the config has counts. Formulas have the names `mirror` (the
    parameters of the added model), `mirror_width`, `n_wrapped` (the number of targeted modules, by default all layers),
    and `task_head` (the parameters of the modules that the configuration's task trains in full)."""
    loads: Loads | None = None
    """Adapters on which the type is built. Formulas have the names `loaded` (1 if their files were read),
    `loaded_added` (the parameters of all of them) and `loaded_trained` (the trained ones of these)."""
    skips: bool = False
    """True if the library passes over targeted modules of other kinds."""
    adds: list[Stem] = Field(default=[])
    """Names of modules that the type adds and that could be taken for the model's."""
    untrainable: dict[Literal["checkpointing", "quantized"], Line] = Field(default={})
    """Settings of a training step that the library refuses with this type, each with the reason."""
    converts: bool = False
    """True if the library replaces older names of experts' tensors (`Library.experts`)."""
    of_experts: Name | None = None
    """The argument that counts once for each expert, if the matrices of all experts are adapted as one."""
    remarks: dict[Line, FormulaField] = Field(default={})
    """Notes, each with the condition on the arguments under which it holds."""
    noted: dict[Name, Line] = Field(default={})
    """Arguments that are ignored with a note if they have a value."""
    nullable: dict[Name, bool] = Field(default={})
    """Arguments with a default whose declared type also has null: true if null counts as the default, false if the
    library fails with null."""
    arguments: dict[Name, Any]
    """The type's own arguments with their defaults."""


class Introspection(Entry):
    """The place in the library's code where its configuration classes are."""

    module: Stem
    mapping: Name | None = None
    """The mapping in that module from types to classes."""
    base: Name | None = None
    """Without a mapping: the base class. All dataclasses derived from it are types, named by their classes."""
    abstract: list[Name] = Field(default=[])
    """Classes derived from it that are no types."""
    saved: Name | None = None
    """The class attribute with the type's name in a saved configuration."""
    shorthands: Name | None = None
    """The mapping in that module from short names to configurations."""
    nulls: bool = False
    """True if the file declares which arguments may be null (`nullable`)."""


class Library(Entry):
    """A library, declared in `taxonomy/libraries/<id>.yaml`."""

    id: Id
    name: Stem
    package: Name
    version: Stem
    source: Citation
    note: Prose
    file: Stem
    """The file of a saved configuration."""
    type_key: Name
    """The key that gives the type."""
    usage: list[Stem]
    """The calls that apply a configuration; `{config}` stands for it."""
    report: list[Stem] = Field(default=[])
    """The calls that print what is trained afterwards."""
    half: list[Stem] = Field(default=[])
    """The calls in place of `usage` that give the trained tensors the model's type, `{dtype}`."""
    trainer: Stem | None = None
    """The class that trains an adapted model as `transformers.Trainer` does. Without it no program is written."""
    save: list[Stem] = Field(default=[])
    """The calls that save what was trained."""
    arguments: dict[Name, Any] = Field(default={})
    """Arguments of every type, with their defaults."""
    inert: list[Name] = Field(default=[])
    """Arguments that never change the number or shape of any tensor."""
    inert_values: dict[Name, list[Any]] = Field(default={})
    """Arguments that change no number or shape at these values only; `*` in a word matches anything."""
    counted: list[Name] = Field(default=[])
    """Arguments that are lists of which only the length affects the counts."""
    union: Word | None = None
    """The type of a saved configuration that contains configurations."""
    files: list[Name] = Field(default=[])
    """Arguments that name files by key. Only their number affects the counts."""
    introspection: Introspection | None = None
    """`peftonomy drift` compares the types and arguments below with the installed library."""
    tasks: dict[Word, Task] = Field(default={})
    shortens: int = 2**31
    """The length from which the library replaces a list of targets by the shortest endings with the same meaning."""
    replicates: Stem | None = None
    """The names of lists of layers that the library can repeat, as one expression; null for all."""
    experts: list[OldExperts] = Field(default=[])
    """Families whose targets the library replaces, in the types that convert them."""
    adds: list[Name] = Field(default=[])
    """Names of modules that the library puts into each targeted module."""
    embedding_names: list[Stem] = Field(default=[])
    """Modules that are saved in full beside the adapter if one of these names targets them."""
    types: dict[Word, ConfigType] = Field(default={})
    tables: dict[Id, ByModel] = Field(default={})
    shorthands: dict[Stem, Shorthand] = Field(default={})
    """Short names of configurations, as the library's functions take them."""
    builds: dict[Word, Build] = Field(default={})
    """The tensors that the library builds, by the first type with the same saved name. With them, the library's counts
    do not depend on the methods' entries."""
    hosts: dict[Stem, Host] = Field(default={})
    """The model families that the library supports, with their locations."""
    support: dict[Id, Support] = Field(default={})
    """Methods of the library: the first release with each, and the base models that it takes."""

    @model_validator(mode="after")
    def _linked(self) -> Self:
        for name, kind in self.types.items():
            for table in kind.by_model.values():
                if table not in self.tables:
                    raise ValueError(f"type {name} names no table: {table}")
            if kind.like is not None and (kind.like not in self.types or self.types[kind.like].like is not None):
                raise ValueError(f"type {name} is like no plain type: {kind.like}")
            sets = (pattern.sets for pattern in kind.patterns.values())
            for argument in (
                *kind.by_model, *kind.patterns, *sets, *kind.noted, *kind.needs, *kind.fills, *kind.computes,
                *kind.nullable, *kind.fractions,
                *kind.mirrors, *([kind.rows] if kind.rows else ()),
            ):  # fmt: skip
                if argument not in kind.arguments:
                    raise ValueError(f"type {name} has no argument {argument}")
            if kind.only is not None and kind.only not in kind.by_model:
                raise ValueError(f"type {name} names no table: {kind.only}")
        for name, rows in self.tables.items():
            if rows.like is not None and (rows.like not in self.tables or rows.like == name):
                raise ValueError(f"table {name} is like no other: {rows.like}")
        return self

    def defaults(self, kind: str) -> dict[str, Any]:
        """Return every argument of a type with its default."""
        one = chosen(f"type of {self.name}", kind, self.types)
        return {**(self.arguments if one.like is None else self.defaults(one.like)), **one.arguments}

    def abilities(self, method: str) -> dict[Aspect, Ability]:
        """Return the support for kinds of base models with one method, as far as it is known."""
        return dict(self.support[method].base) if method in self.support else {}

    def citations(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """Yield every citation with its place in the file."""
        yield ("source",), self.source
        for method, found in self.support.items():
            yield from ((("support", method, "base", n, "source"), one.source) for n, one in found.base.items())

    def type_saved_as(self, word: object) -> str | None:
        """Return the first type that has this name in a saved configuration; None if no type has it."""
        return next((name for name, kind in self.types.items() if kind.saved == word), None)

    def roles(self, kind: str) -> dict[str, dict[str, Any]]:
        """Return the arguments by which a type selects our roles."""
        one = chosen(f"type of {self.name}", kind, self.types)
        return one.roles if one.roles or one.like is None else self.roles(one.like)

    @cached_property
    def _tables(self) -> Mapping[str, Mapping[str, list[str] | str]]:
        return {name: dict(self._rows(name)) for name in self.tables}

    def _rows(self, name: str) -> Iterator[tuple[str, list[str] | str]]:
        table = self.tables[name]
        if table.like is not None:
            yield from ((m, v) for m, v in self._rows(table.like) if m not in table.without)
        yield from table.models.items()

    def table(self, name: str) -> Mapping[str, list[str] | str]:
        """Return a table including its inherited rows."""
        return self._tables[name]

    def inert_at(self, name: str, value: Any) -> bool:
        """Return True if an argument with this value changes neither number nor shape of any tensor."""
        return name in self.inert or any(
            fnmatchcase(value, one) if isinstance(value, str) and isinstance(one, str) else value is one
            for one in self.inert_values.get(name, ())
        )

    def default(self, kind: str, argument: str, model_type: str) -> Any:
        """Return the default of an argument for a model; None if the library has none."""
        table = self.types[kind].by_model.get(argument)
        found = None if table is None else self.table(table).get(model_type)
        return self.defaults(kind).get(argument) if found is None else found


def load_library(path: Path, name: str) -> Library:
    """Read the library in a file that messages call `name`. Raises DataError with every problem."""
    return validated(Library, load_yaml(path, name))
