"""The schema of the parts that a method adds to a model: hyperparameters, targets, tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    model_validator,
)

from ..formula import Formula
from .base import Citation, Entry, FormulaField, Id, Line, Name, Role, Scope, Stem, Value, formula_from, start_from
from .names import LOCAL, MODEL_NAMES, OF_PARAMETERS, OF_STEP

__all__ = [
    "PLACE_NAMES",
    "BaseStorage",
    "Hyperparameter",
    "Include",
    "Moved",
    "Properties",
    "Stored",
    "Targets",
    "Tensor",
]  # fmt: skip


class Hyperparameter(Entry):
    """A number or choice that the user sets and that formulas may use."""

    type: Literal["int", "float", "bool", "choice"]
    default: Value
    """The value used when the user gives none. For numbers it may be a formula in quotes over the model's
    dimensions."""
    meaning: Line
    source: Citation
    literal: Stem | None = None
    """The default as the cited file writes it, if it follows from another setting there: `reduction_factor 16`."""
    domain: FormulaField | None = None
    """A condition on the value, over this hyperparameter, the others and the model's dimensions."""
    values: list[Name] | None = None
    """The values of a choice."""
    symbol: Stem | None = None
    """The LaTeX symbol in the update rule, if it differs from the name."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.type == "choice") != (self.values is not None):
            raise ValueError("`values` belongs to a choice, and a choice needs it")
        if self.values is not None and self.default not in self.values:
            raise ValueError(f"default {self.default!r} is not among the values {', '.join(self.values)}")
        if raised := [value for value in self.values or () if value != value.lower()]:
            raise ValueError(f"value {raised[0]} of a choice has capital letters; users' values are read in lower case")
        kinds: dict[str, tuple[type, ...]] = {
            "int": (int, str),
            "float": (int, float, str),
            "bool": (bool,),
            "choice": (str,),
        }
        if not isinstance(self.default, kinds[self.type]) or (self.type != "bool" and isinstance(self.default, bool)):
            raise ValueError(f"default {self.default!r} is not of type {self.type}")
        if self.type in ("int", "float") and isinstance(self.default, str):
            formula_from(self.default)
        return self


class Targets(Entry):
    """The linear modules that the method acts on, by role."""

    default: list[Role]
    """Roles targeted when the caller names none. Roles that a model lacks are skipped."""
    allowed: list[Role]
    """Roles or patterns that the method's mathematics allows."""
    source: Citation


class Stored(Entry):
    """The part of a tensor that one task's checkpoint must contain."""

    as_: Literal["values", "indices", "bits", "shared", "seed", "none"] = Field(alias="as")
    """`values`, `indices` (positions) and `bits` are in each task's checkpoint. `shared` is stored once for all tasks.
    `seed`: a seed regenerates the tensor. `none`: the tensor is discarded, or computed from stored values."""
    count: FormulaField | None = None
    """The number of stored entries at each location, if not all entries."""
    across: FormulaField | None = None
    """The number of stored entries over all locations together. `numel` is the summed size of these locations."""

    @model_validator(mode="after")
    def _counted(self) -> Self:
        given = [n for n in ("count", "across") if getattr(self, n) is not None]
        if len(given) > (self.as_ not in ("none", "seed")):
            raise ValueError(f"stored as {self.as_} with {' and '.join(given)}")
        return self


class Moved(Entry):
    """The number of entries that the optimiser updates, over all locations together."""

    across: FormulaField


PLACE_NAMES = MODEL_NAMES.union(*LOCAL.values(), OF_STEP)


@cache
def _decided(condition: Formula | None) -> tuple[Formula | None, Formula | None]:
    """Split a condition into the part over hyperparameters only and the part that depends on the location."""
    parts = [] if condition is None else condition.conjuncts()
    placed = [part for part in parts if part.names & PLACE_NAMES]
    return _joined([part for part in parts if part not in placed]), _joined(placed)


def _joined(parts: Sequence[Formula]) -> Formula | None:
    sources = [part.source for part in parts]
    if len(sources) < 2:
        return Formula.parse(sources[0]) if sources else None
    return Formula.parse(" and ".join(f"({source})" for source in sources))


def _stored(value: Any) -> Any:
    if isinstance(value, str):
        return [{"as": value}]
    return [value] if isinstance(value, dict) else value


class Tensor(Entry):
    """A tensor that the method adds or selects from the backbone, at every location of its scope."""

    per: Scope
    """`site`: each targeted linear module. `role`: each role (and shape) among those, with one tensor for all its
    layers. `attention`, `mlp`, `layer`: each such block. `model`: once. `weight`, `bias`, `norm`: each existing
    parameter of the backbone (all parameters, the biases, or those of norms). Without `shape` and `count` the tensor is
    that parameter itself. With one of them it is a new tensor beside the parameter."""
    roles: list[Role] | None = None
    """Only locations with these roles (for blocks: `attn`, `xattn`, `mlp`, `layer`)."""
    if_: FormulaField | None = Field(default=None, alias="if")
    """The tensor exists only if this holds, for example `layer >= n_drop and mode == 'full'`."""
    shape: list[FormulaField] | None = None
    count: FormulaField | None = None
    """The number of entries, instead of a shape, if the tensor is not dense."""
    copies: FormulaField = Field(default=1, validate_default=True)
    """The number of such tensors at each location."""
    requires: FormulaField | None = None
    """A condition at each location, for example `d_in % n == 0`. The entry's own `requires` applies to all its tensors
    per site that do not declare another."""
    init: Annotated[Line, AfterValidator(start_from)]
    """The initial values, in the language of `schema.initial`: `zeros`, `normal(0.02)`, `uniform(1 / sqrt(d_in))`,
    `computed: ...`, `drawn: ...`. A test draws them."""
    trained: bool | FormulaField | Moved
    """True if the optimiser updates the tensor. A formula gives the number of updated entries at each location, and
    `{across: ...}` gives it for all locations together."""
    stored: Annotated[list[Stored], BeforeValidator(_stored)]
    served: Literal["merged", "kept", "absent"]
    """At inference: merged into the backbone's own weights, kept beside them, or absent."""
    note: Line | None = None

    @property
    def when(self) -> Formula | None:
        """The part of `if` that depends on hyperparameters only."""
        return _decided(self.if_)[0]

    @property
    def where(self) -> Formula | None:
        """The part of `if` that depends on the location."""
        return _decided(self.if_)[1]

    @property
    def selecting(self) -> bool:
        """True if the tensor is an existing parameter of the backbone, not a new tensor."""
        return self.per in OF_PARAMETERS and self.shape is None and self.count is None

    @property
    def declared(self) -> str:
        """The shape or the count as the entry writes it."""
        if self.shape is not None:
            return " x ".join(size.source for size in self.shape)
        return self.count.source if self.count is not None else "its own"

    @model_validator(mode="after")
    def _sized(self) -> Self:
        if not self.selecting and (self.shape is None) == (self.count is None):
            raise ValueError("give either a shape or a count")
        return self

    def formulas(self) -> Iterator[tuple[tuple[str | int, ...], Formula]]:
        """Yield every formula with its location in the entry."""
        for i, size in enumerate(self.shape or []):
            yield ("shape", i), size
        for name in ("count", "copies", "requires"):
            if isinstance(formula := getattr(self, name), Formula):
                yield (name,), formula
        if self.if_ is not None:
            yield ("if",), self.if_
        if isinstance(self.trained, Formula):
            yield ("trained",), self.trained
        if isinstance(self.trained, Moved):
            yield ("trained", "across"), self.trained.across
        for i, part in enumerate(self.stored):
            for name in ("count", "across"):
                if isinstance(formula := getattr(part, name), Formula):
                    yield ("stored", i, name), formula


class Include(Entry):
    """Another entry's tensors, included under a prefix. Its hyperparameters can be renamed or set."""

    method: Id
    as_: Name = Field(alias="as")
    rename: dict[Name, Name] = {}
    """The included entry's hyperparameter -> ours."""
    set: dict[Name, Value] = {}
    """The included entry's hyperparameter -> a value, or a formula in quotes over ours."""


class BaseStorage(Entry):
    """The storage format of the frozen weights, if a method changes it (quantisation)."""

    roles: list[Role]
    count: FormulaField
    """Values stored per weight matrix, as a formula over `numel`."""
    bits: int = Field(ge=1, le=64)
    note: Line | None = None


class Properties(Entry):
    """Properties of the adapted model."""

    identity_at_init: Literal["exact", "approximate", "none"]
    inference_positions: FormulaField = Field(default=0, validate_default=True)
    """Sequence positions that the method adds to every input at inference."""
    head_alone: bool = False
    """True if the method only trains a head. The new head of a task with labels is counted apart, so the method's own
    counts are zero on such a task."""
    note: Line | None = None
