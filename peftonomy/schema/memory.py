"""The schema of a method's computation in training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from ..formula import Formula
from .base import Entry, FormulaField, Functions, Line, Name, Role
from .tensors import Tensor

__all__ = ["Act", "Memory", "Turns", "Update", "placed"]


def placed(
    per: str, roles: list[str] | None, condition: Formula | None, count: Formula, second: Formula | bool = False,
    third: Formula | int = 1,
) -> Tensor:  # fmt: skip
    """A dummy tensor with a location only, so that layout can place a record. Its sizes are up to three formulas."""
    known: dict[str, Any] = {
        "per": per, "roles": roles, "if": condition, "count": count, "init": "computed: activations",
        "trained": second, "copies": third, "stored": "none", "served": "absent",
    }  # fmt: skip
    return Tensor(**known)


class Act(Entry):
    """The computation of a method at every location of a scope, as functions in the language of `peftonomy.memory`.

    `before x` changes the input of a module or block, and `after x y` its output. `weight w` and `bias b` replace a
    parameter. A point of the model (`embedded x`, `widen k v`) is called by its name. `gradient g` changes the gradient
    of a parameter of the model, and `gradient_A g` that of the tensor A.
    """

    per: Literal["site", "role", "attention", "mlp", "layer", "model", "weight", "bias", "norm"]
    """A record per `role` has no functions, only `holds`."""
    roles: list[Role] | None = None
    if_: FormulaField | None = Field(default=None, alias="if")
    """`roles` and `if` restrict the locations as for a tensor."""
    at: Literal["layer", "norm"] | None = None
    """Of a record per `site`: the functions act around its layer, or around the norm behind it, instead of the site."""
    like: Name | None = None
    """A pattern of `backbones/operations.yaml` whose functions this record uses."""
    names: dict[Name, str] = {}
    """Replacements for words of that pattern."""
    functions: Functions = {}
    """The record's functions, each by its head."""
    holds: FormulaField = Field(default=0, validate_default=True)
    """Bytes that persist between steps, besides the method's tensors. `width` is the bytes of one frozen parameter."""

    def tensor(self) -> Tensor:
        """A dummy tensor, so that layout can place this record."""
        return placed(self.per, self.roles, self.if_, self.holds)


class Update(Entry):
    """The method's own rule for the update of parameters, in place of the optimizer's.

    It takes the place of the default optimizer. With another one the method is refused. The formulas are in bytes, and
    `width` is the bytes of one trained parameter.
    """

    per: Literal["weight", "bias", "norm", "site"] = "weight"
    """`site` if and only if the record has `tensors`."""
    tensors: list[Name] = []
    """Tensors of the method that the rule updates at each location. Without any, it updates the model's parameters."""
    roles: list[Role] | None = None
    if_: FormulaField | None = Field(default=None, alias="if")
    """`roles` and `if` restrict the locations as for a tensor."""
    states: FormulaField
    """Bytes that the rule keeps between steps for each of these parameters, or for all `tensors` at a location."""
    temporary: FormulaField
    """Bytes that it takes for a while to update one of these parameters, or the tensors at one location, at most."""
    together: FormulaField = Field(default=0, validate_default=True)
    """Bytes that it takes for each of these parameters or locations while it updates all of them, besides their
    gradients."""

    def tensor(self) -> Tensor:
        """A dummy tensor, so that layout can place this record."""
        return placed(self.per, self.roles, self.if_, self.states, self.temporary, self.together)


class Turns(Entry):
    """The schedule of a method that trains a few layers at a time and freezes the other layers meanwhile.

    Every choice of layers may have its turn. Trained parameters outside the layers are trained in every turn.
    """

    layers: FormulaField
    """The number of layers that are trained at a time. A model with fewer layers trains all of them."""
    drops: FormulaField = Field(default=1, validate_default=True)
    """True if the optimizer drops the states of a layer that is frozen again."""


class Memory(Entry):
    """The computation of the method in training. Memory and FLOPs follow from it; it contains no measured number.

    Only methods that train nothing but parameters of the backbone, by an ordinary optimizer, need no such record.
    """

    operations: list[Act] = []
    updates: list[Update] = []
    evaluations: FormulaField = Field(default=0, validate_default=True)
    """The forward passes of a step that has no backward pass; 0 if a step has one.

    The model is in evaluation mode, and autograd saves nothing. The update comes from the losses. Before each pass the
    method perturbs the trained parameters in place, one at a time, by numbers that it draws again from a seed."""
    turns: Turns | None = None
    positions: FormulaField = Field(default=0, validate_default=True)
    """Sequence positions that the method adds to every input during training."""
    note: Line | None = None

    @property
    def forward_only(self) -> bool:
        """Return True if a step has no backward pass."""
        return self.evaluations.literal != 0

    def formulas(self) -> Iterator[tuple[tuple[str | int, ...], Formula, str]]:
        """Yield every formula with its location in the record and its scope."""
        yield ("positions",), self.positions, "model"
        yield ("evaluations",), self.evaluations, "model"
        if self.turns is not None:
            yield ("turns", "layers"), self.turns.layers, "model"
            yield ("turns", "drops"), self.turns.drops, "model"
        for i, act in enumerate(self.operations):
            if act.if_ is not None:
                yield ("operations", i, "if"), act.if_, act.per
            yield ("operations", i, "holds"), act.holds, act.per
        for i, update in enumerate(self.updates):
            if update.if_ is not None:
                yield ("updates", i, "if"), update.if_, update.per
            yield ("updates", i, "states"), update.states, update.per
            yield ("updates", i, "temporary"), update.temporary, update.per
            yield ("updates", i, "together"), update.together, update.per
