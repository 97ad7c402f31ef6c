"""The schema of what a library builds from a configuration: tensors by location, in formulas over its arguments.

A library whose configurations select locations instead of module names (AdapterHub's `adapters`) declares its own
tensors here. Its counts then follow from the configuration alone, also where no entry describes the combination.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from ..formula import Formula
from .base import Entry, FormulaField, Line, Name, Role, Stem

__all__ = ["Build", "Built", "Host", "Place", "Remark", "Requirement", "Shorthand"]

Keys = tuple[str | int, ...]
Kind = Literal["bool", "int", "float", "number", "null", "text", "layers", "names", "map"]
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+$", max_length=60)]
Place = Literal["block", "prefix", "gate", "layer", "linear", "first_linear", "model"]


class Built(Entry):
    """A tensor, or several that always occur together."""

    per: Place
    """The location. `block`: an attention or feed-forward block; `prefix`: all attentions with the same prefix key;
    `gate`: one of these attentions; `layer`: a layer; `linear`: a selected linear module; `first_linear`: the first of
    them, once for the model; `model`: once."""
    when: FormulaField | None = None
    """The condition on the arguments; always if absent."""
    count: FormulaField
    """The number of parameters at one location."""
    trained: bool = True
    saved: FormulaField | None = None
    """The number of values in the file, if it differs from `count`."""
    shared: bool = False
    """True if the tensor belongs to the whole model. The library's file omits it if the task's class has no head around
    its base model."""


class Requirement(Entry):
    """A condition without which the library fails, or without which the counts would not hold."""

    argument: Name
    holds: FormulaField
    expected: Stem
    per: Place | None = None
    """The location at which the condition is checked; the model if absent."""


class Remark(Entry):
    """A sentence about a value that changes no count."""

    argument: Name
    when: FormulaField
    text: Line


class Build(Entry):
    """The tensors of one type of configuration."""

    needs: Name
    """The method in `Host.methods` that a model family must support."""
    blocks: list[Name] = Field(default=[])
    """The arguments that select blocks. Their names are the keys in `Host.blocks`."""
    apart: list[Name] = Field(default=[])
    """The arguments that must all differ between two of these configurations in a union, unless one skips layers."""
    skips: Name | None = None
    """The argument that lists layers without these tensors."""
    layers: Name | None = None
    """The argument that lists the layers with these tensors."""
    picks: Name | None = None
    """The argument that lists the parts of the attention (`Host.linear`) to adapt."""
    values: dict[Name, list[Kind | Stem]]
    """What each argument accepts: kinds of values, or single words."""
    let: dict[Name, FormulaField] = Field(default={})
    """Computed values that the formulas below may name, in order."""
    requires: list[Requirement] = Field(default=[])
    remarks: list[Remark] = Field(default=[])
    tensors: list[Built]

    def arguments(self) -> Iterator[tuple[Keys, str]]:
        """Yield every argument that is named, with its place."""
        yield from ((("values", name), name) for name in self.values)
        for field in ("blocks", "apart"):
            yield from (((field, i), name) for i, name in enumerate(getattr(self, field)))
        for field in ("skips", "layers", "picks"):
            if (name := getattr(self, field)) is not None:
                yield (field,), name
        for field in ("requires", "remarks"):
            yield from (((field, i, "argument"), one.argument) for i, one in enumerate(getattr(self, field)))

    def formulas(self) -> Iterator[tuple[Keys, Formula, str | None]]:
        """Yield every formula with its place, and the location at which it is evaluated."""
        yield from ((("let", name), formula, None) for name, formula in self.let.items())
        yield from ((("requires", i, "holds"), one.holds, one.per) for i, one in enumerate(self.requires))
        yield from ((("remarks", i, "when"), one.when, None) for i, one in enumerate(self.remarks))
        for i, tensor in enumerate(self.tensors):
            for field in ("when", "count", "saved"):
                if (formula := getattr(tensor, field)) is not None:
                    yield ("tensors", i, field), formula, tensor.per


class Host(Entry):
    """The locations that the library offers in the models of one family."""

    like: Stem | None = None
    """Another family. This one inherits all its fields, and overrides those that it declares itself."""
    methods: list[Name] = Field(default=[])
    """The kinds of method that the library supports for the family."""
    blocks: dict[Name, list[Role]] = Field(default={})
    """Argument -> the blocks that it selects: `attn`, `xattn` or `mlp`, with a stack and a colon if necessary."""
    prefixes: dict[Role, Name] = Field(default={})
    """Attention -> the key of its prefixes. The first match counts. Keys that are arguments can be switched off."""
    linear: dict[Name, dict[Name, list[Role]]] = Field(default={})
    """Argument -> part -> the roles of the linear modules that it selects."""
    fused: Role | None = None
    """The linear module that contains queries, keys and values, adapted as one module with a part for each."""
    hooked: bool = False
    """True if the library attaches its blocks to the model by hooks, without code of its own for the family."""
    head_width: FormulaField | None = None
    """The width of a prefix's head, if it is not d_model // n_heads."""


class Shorthand(Entry):
    """A configuration with a short name."""

    type: Word | None = None
    set: dict[Name, Any] = Field(default={})
    union: list[Shorthand] = Field(default=[])
