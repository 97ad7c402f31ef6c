"""What a library's configuration may say: its types, their arguments with defaults, and the modules meant by default.

Facts about a library as a whole stand in `taxonomy/libraries/<id>.yaml`; how one method's hyperparameters are called
there stands in that method's entry (`Implementation`). With the two a configuration is read (`_adapter`) and written
(`_export`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from ..files.documents import load_yaml
from .method import (
    Argument,
    Citation,
    Entry,
    FormulaField,
    Id,
    Line,
    Name,
    Prose,
    Role,
    Stem,
    validated,
)

__all__ = ["ConfigType", "Library", "Task", "load_library"]

Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+$", max_length=60)]
Kind = Literal["linear", "conv1d", "embedding", "conv", "norm"]


class Task(Entry):
    """A task of the library: which of ours it is, and the modules that it trains in full by itself."""

    task: Id
    kind: Word | None = None
    """Only for families of this kind."""
    saved: list[Stem] = Field(default=[])


class ByModel(Entry):
    """A default that depends on the model: `model_type` to names of modules, or to one regular expression."""

    like: Id | None = None
    """Another table that this one starts from."""
    without: list[Stem] = Field(default=[])
    """What it does not take over from there."""
    models: dict[Stem, list[Stem] | Stem] = Field(default={})


class Pattern(Entry):
    """An argument that maps expressions over module names to values of another; the first that matches counts."""

    sets: Name
    where: Literal["end", "below", "anywhere"] = "end"
    """What must match: the end of a name from a dot on (or all of it), the end after a dot, or any part."""

    def compile(self, expression: str) -> Callable[[str], object]:
        """A function that says whether a module's name is meant. Raises re.error."""
        if self.where == "anywhere":
            return re.compile(expression).search
        return re.compile(rf"(.*\.)?({expression})$" if self.where == "end" else rf".*\.{expression}$").match


class ConfigType(Entry):
    """One type of configuration."""

    symbol: Stem
    """Its class."""
    saved: Stem | None = None
    """What a saved configuration has for its type, where that is not the type's name; null for nothing."""
    like: Word | None = None
    """Another type whose arguments it takes over, and its roles if it has none of its own."""
    roles: dict[Role, dict[Name, Any]] = Field(default={})
    """The arguments that one of our roles stands for, with their values; lists are put together."""
    accepts: list[Kind] = Field(default=[])
    """The kinds of module that it adapts and that an entry can count."""
    otherwise: Stem | None = None
    """What is meant where neither the configuration nor a table names modules: all-linear, or input-embedding."""
    by_model: dict[Name, Id] = Field(default={})
    """Arguments whose default depends on the model: the table that has it."""
    patterns: dict[Name, Pattern] = Field(default={})
    picks: dict[Argument, Literal["end", "part"]] = Field(default={})
    """Arguments that name some of the targets, by an end of a module's name or by any part of it."""
    needs: list[Name] = Field(default=[])
    """Arguments without a default, for which the library fails where they are absent."""
    fills: dict[Name, FormulaField] = Field(default={})
    """Sizes that the library takes from the model where they are absent, one after the other: formulas over the model's
    dimensions and the arguments."""
    of_experts: Name | None = None
    """The argument that counts once for each expert, where the matrices of all are adapted as one."""
    noted: dict[Name, Line] = Field(default={})
    """Arguments that are passed over when they say something, with the note to make of it."""
    arguments: dict[Name, Any]
    """Every argument of its own, with its default."""


class Library(Entry):
    """A library, as `taxonomy/libraries/<id>.yaml` has it."""

    id: Id
    name: Stem
    package: Name
    version: Stem
    source: Citation
    note: Prose
    file: Stem
    """The file that a saved configuration is in."""
    type_key: Name
    """The key that tells the types apart."""
    usage: list[Stem]
    """The calls that put a configuration to use, with `{config}` for it."""
    arguments: dict[Name, Any] = Field(default={})
    """Arguments of every type, with their defaults."""
    inert: list[Name] = Field(default=[])
    """Arguments that change neither number nor shape of any tensor, whatever they say."""
    inert_values: dict[Name, list[Any]] = Field(default={})
    """Those of which this holds of some values (words with `*` for anything) and not of others."""
    counted: list[Name] = Field(default=[])
    """Arguments that are lists of which only the length counts here."""
    union: Word | None = None
    """The type under which a configuration of configurations is saved."""
    files: list[Name] = Field(default=[])
    """Arguments that name files by key; here too only their number counts."""
    tasks: dict[Word, Task] = Field(default={})
    embedding_names: list[Stem] = Field(default=[])
    """Modules that are saved whole beside the adapter once they are targeted by one of these names."""
    types: dict[Word, ConfigType] = Field(default={})
    tables: dict[Id, ByModel] = Field(default={})

    @model_validator(mode="after")
    def _linked(self) -> Self:
        for name, kind in self.types.items():
            for table in kind.by_model.values():
                if table not in self.tables:
                    raise ValueError(f"type {name} names no table: {table}")
            if kind.like is not None and (kind.like not in self.types or self.types[kind.like].like is not None):
                raise ValueError(f"type {name} is like no plain type: {kind.like}")
            sets = (pattern.sets for pattern in kind.patterns.values())
            for argument in (*kind.by_model, *kind.patterns, *sets, *kind.noted, *kind.needs, *kind.fills):
                if argument not in kind.arguments:
                    raise ValueError(f"type {name} has no argument {argument}")
        for name, rows in self.tables.items():
            if rows.like is not None and (rows.like not in self.tables or rows.like == name):
                raise ValueError(f"table {name} is like no other: {rows.like}")
        return self

    def defaults(self, kind: str) -> dict[str, Any]:
        """Every argument of a type with its default."""
        one = self.types[kind]
        return {**(self.arguments if one.like is None else self.defaults(one.like)), **one.arguments}

    def roles(self, kind: str) -> dict[str, dict[str, Any]]:
        """The arguments that a type has for our roles."""
        one = self.types[kind]
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
        """A table with what it takes over."""
        return self._tables[name]

    def inert_at(self, name: str, value: Any) -> bool:
        """Whether an argument with this value changes neither number nor shape of any tensor."""
        return name in self.inert or any(
            fnmatchcase(value, one) if isinstance(value, str) and isinstance(one, str) else value is one
            for one in self.inert_values.get(name, ())
        )

    def default(self, kind: str, argument: str, model_type: str) -> Any:
        """The default of an argument for a model; None where the library has none."""
        table = self.types[kind].by_model.get(argument)
        found = None if table is None else self.table(table).get(model_type)
        return self.defaults(kind).get(argument) if found is None else found


def load_library(path: Path, name: str) -> Library:
    """The library in a file that messages call `name`. Raises DataError with every problem."""
    return validated(Library, load_yaml(path, name))
