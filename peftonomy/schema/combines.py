"""The schema of a method that combines what several runs of another method have trained."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from ..formula import Formula
from .base import Entry, FormulaField, Id, Line, Name, Role, Value
from .memory import placed
from .tensors import Tensor

__all__ = ["Combines", "Pass"]


class Pass(Entry):
    """One pass of the combination over all locations of a scope. Passes follow each other.

    The formulas are in bytes, and `width` is the bytes of one parameter. An input is read from its file tensor by
    tensor, and what is read takes memory like any other tensor.
    """

    per: Literal["site", "attention", "mlp", "layer", "weight", "bias", "norm"] = "weight"
    roles: list[Role] | None = None
    if_: FormulaField | None = Field(default=None, alias="if")
    """`roles` and `if` restrict the locations as for a tensor."""
    temporary: FormulaField
    """Bytes that the pass takes for a while at one of these locations, at most."""
    together: FormulaField = Field(default=0, validate_default=True)
    """Bytes that it takes for each of these locations until it ends."""

    def tensor(self) -> Tensor:
        """A dummy tensor, so that layout can place this record."""
        return placed(self.per, self.roles, self.if_, self.together, self.temporary)


class Combines(Entry):
    """The inputs of a method that combines trained models or adapters, and the combination itself.

    The result is what the entry's tensors declare. The combination works on the model in its place.
    """

    method: Id
    """The method that trained each input, on the same targets. Whole models are inputs of full fine-tuning."""
    rename: dict[Name, Name] = {}
    """A hyperparameter of the inputs' method -> ours."""
    set: dict[Name, Value] = {}
    """A hyperparameter of the inputs' method -> a value, or a formula in quotes over ours."""
    inputs: FormulaField
    """The number of inputs."""
    sum: Literal["exact", "approximate"] | None = None
    """`exact`: the change of each module's weight is a weighted sum of the inputs' changes, with the same weights for
    all its entries. `approximate`: it is another change by design. Only a method that merges into the weights declares
    it."""
    passes: list[Pass] = Field(min_length=1)
    note: Line | None = None

    def formulas(self) -> Iterator[tuple[tuple[str | int, ...], Formula, str]]:
        """Yield every formula with its location in the record and its scope."""
        yield ("inputs",), self.inputs, "model"
        for i, one in enumerate(self.passes):
            if one.if_ is not None:
                yield ("passes", i, "if"), one.if_, one.per
            yield ("passes", i, "temporary"), one.temporary, one.per
            yield ("passes", i, "together"), one.together, one.per
