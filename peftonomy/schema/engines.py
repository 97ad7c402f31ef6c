"""The schema of `taxonomy/engines/<id>.yaml`: the memory that a serving engine allocates for adapters of LoRA's form.

Every formula counts the numbers of one adapter on one GPU. It may name `d_in` and `d_out` of the layer, `experts` (the
number of experts whose weights are one tensor, otherwise 1), the sizes of the model, `rank`, `tp` (the number of GPUs
of tensor parallelism) and `sharded`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, Self

from pydantic import model_validator

from ..files.documents import load_yaml
from ..formula import Formula
from .base import Citation, Entry, FormulaField, Id, Line, Name, Prose, Role, Stem, validated
from .names import DIMS

__all__ = ["Engine", "EngineFamily", "Kind", "Taken", "Works", "load_engine"]

Works = Literal["taken", "converted", "refused", "wrong", "unknown"]
"""`taken`: the engine serves the saved adapter. `converted`: it serves the adapter after a conversion to LoRA.
`refused`: an error. `wrong`: no error, and another function than the trained one. `unknown`: not read."""
KNOWN = frozenset({*DIMS, "n_layers", "d_in", "d_out", "experts", "rank", "tp", "sharded"})


class Kind(Entry):
    """One kind of layer: the numbers that an adapter takes there."""

    numbers: FormulaField
    divides: list[FormulaField] = []
    """Sizes that `tp` must divide."""


class EngineFamily(Entry):
    """The layers of one family of models that the engine adapts."""

    like: Name | None = None
    """Another family, whose layers this one shares, except those in `without`."""
    layers: dict[Role, Name] = {}
    """The kind of each layer, by role."""
    without: list[Role] = []
    source: Citation

    @model_validator(mode="after")
    def _filled(self) -> Self:
        if bool(self.layers) == (self.like is not None):
            raise ValueError("either layers or like")
        return self


class Earlier(Entry):
    """The same question for another version of the engine."""

    version: Stem
    works: Works
    note: Line
    source: Citation


class Taken(Entry):
    """Whether the engine serves one method's saved adapter."""

    works: Works
    note: Line
    source: Citation
    earlier: list[Earlier] = []


class Engine(Entry):
    """A serving engine, declared in `taxonomy/engines/<id>.yaml`."""

    id: Id
    name: Stem
    version: Stem
    source: Citation
    note: Prose
    allocates: Literal["start", "load"]
    """`start`: the memory of a fixed number of adapters, at the start. `load`: that of each adapter, when it loads."""
    limit: Line
    """The engine's option for the number of adapters, or the limit that takes its place."""
    every: bool = False
    """True if all listed layers take memory, whatever modules the adapters target."""
    ranks: list[int] = []
    """The ranks that the engine's option accepts; empty: every rank."""
    rank: FormulaField | None = None
    """The rank that is allocated for an adapter of the rank `rank`, if it is another one."""
    tp: list[int] = []
    """The accepted numbers of GPUs; empty: every number that divides the sizes."""
    sharded: bool = False
    """True if the engine has an option that shards the adapters further."""
    dtypes: list[Stem]
    adapter: FormulaField | None = None
    """The numbers of one adapter, if they do not depend on the layers that it adapts. Then there are no kinds."""
    requires: FormulaField | None = None
    """A condition on the model."""
    kinds: dict[Name, Kind] = {}
    families: dict[Stem, EngineFamily]
    """By `model_type`."""
    beside: list[Line] = []
    """Memory that is not counted here."""
    needs: list[Name]
    """The keys of an adapter's configuration without which the engine raises an error."""
    needs_source: Citation
    saved_as: list[Stem]
    """The library's types of configuration that the engine reads."""
    methods: dict[Id, Taken]

    @model_validator(mode="after")
    def _linked(self) -> Self:
        for name, family in self.families.items():
            other = self.families.get(family.like or name)
            if other is None or (other.like is not None and family.like is not None):
                raise ValueError(f"family {name} is like no family with layers: {family.like}")
            for role, kind in family.layers.items() if self.kinds else ():
                if kind not in self.kinds:
                    raise ValueError(f"family {name}, layer {role}: found {kind}, expected one of the kinds")
            for role in family.without:
                if role not in other.layers:
                    raise ValueError(f"family {name} is without a layer that {family.like} lacks too: {role}")
        for _, formula in self.formulas():
            if unknown := formula.names - KNOWN:
                raise ValueError(f"{formula.source} names {', '.join(sorted(unknown))}, which no location has")
        if (self.adapter is None) == (not self.kinds):
            raise ValueError("either kinds or adapter")
        return self

    def formulas(self) -> Iterator[tuple[tuple[str | int, ...], Formula]]:
        """Yield every formula with its place in the file."""
        for name, kind in self.kinds.items():
            yield ("kinds", name, "numbers"), kind.numbers
            yield from ((("kinds", name, "divides", i), one) for i, one in enumerate(kind.divides))
        for field in ("rank", "adapter", "requires"):
            if (formula := getattr(self, field)) is not None:
                yield (field,), formula

    def layers(self, family: str) -> Mapping[str, str]:
        """Return the kind of each adapted layer of a family, by role."""
        one = self.families[family]
        if one.like is None:
            return one.layers
        return {role: kind for role, kind in self.families[one.like].layers.items() if role not in one.without}

    def citations(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """Yield every citation with its place in the file."""
        yield ("source",), self.source
        yield ("needs_source",), self.needs_source
        yield from ((("families", name, "source"), one.source) for name, one in self.families.items())
        for name, one in self.methods.items():
            yield ("methods", name, "source"), one.source
            yield from ((("methods", name, "earlier"), earlier.source) for earlier in one.earlier)


def load_engine(path: Path, name: str) -> Engine:
    """Read the engine in a file that messages call `name`. Raises DataError with every problem."""
    return validated(Engine, load_yaml(path, name))
