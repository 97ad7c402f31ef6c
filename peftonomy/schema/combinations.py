"""The schema of `taxonomy/combinations.yaml`: weighted sums of adapters in a library, and conversions to LoRA.

Tests run every record in the library and compare the change of a linear layer's output.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from .base import Citation, Entry, FormulaField, Id, Line, Name, Prose, Stem

__all__ = ["Combinations", "Conversion", "Outcome", "Sum", "Way"]

Outcome = Literal["exact", "at_rank", "approximate", "refused", "wrong"]
"""`exact`: the changes of the adapters add up. `at_rank`: they do so at a sufficient rank; below it, the result is the
best one of that rank. `approximate`: another change by design. `refused`: an error. `wrong`: no error, and not even one
adapter with the weight 1 is reproduced."""


class Way(Entry):
    """One way of computing the sum, with the library's names for it and its variants."""

    names: list[Name]
    note: Line


class Sum(Entry):
    """Two adapters that are added up."""

    name: Line
    methods: list[Id] = []
    """The methods that these configurations are."""
    configs: list[dict[Name, Any]] = Field(min_length=2, max_length=2)
    """What the configurations set, as saved ones do."""
    ways: dict[Id, Outcome] = Field(min_length=1)
    note: Line
    source: Citation


class Conversion(Entry):
    """The conversion of one adapter to LoRA."""

    method: Id
    config: dict[Name, Any]
    """What the configuration sets, as a saved one does."""
    result: Literal["exact", "refused", "wrong"]
    """`exact`: the change of the weight is kept at `rank`."""
    rank: FormulaField | None = None
    """The rank of the change, by the configuration's arguments and the width of the module."""
    bound: bool = False
    """True if the rank can be lower."""
    errors: dict[Annotated[str, Field(pattern=r"^[1-9][0-9]*$")], float] = {}
    """Relative errors of lower ranks, for random values of the adapter and modules of width `width`."""
    note: Line | None = None


class Combinations(Entry):
    """taxonomy/combinations.yaml"""

    library: Id
    note: Prose
    call: Stem
    """The function that adds adapters up."""
    source: Citation
    ways: dict[Id, Way]
    sums: dict[Id, Sum]
    convert: Stem
    """The function that converts an adapter."""
    convert_source: Citation
    width: int = Field(ge=8, le=256)
    """The width of the square module on which the errors were measured."""
    conversions: dict[Id, Conversion]

    def citations(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """Yield every citation with its place in the file."""
        yield ("source",), self.source
        yield ("convert_source",), self.convert_source
        yield from ((("sums", name, "source"), one.source) for name, one in self.sums.items())

    def methods(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """Yield every method with its place in the file."""
        yield from ((("sums", name, "methods"), method) for name, one in self.sums.items() for method in one.methods)
        yield from ((("conversions", name, "method"), one.method) for name, one in self.conversions.items())
