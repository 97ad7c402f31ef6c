"""Printed numbers and closed forms, which tests recompute."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import (
    Field,
    model_validator,
)

from .base import Citation, Entry, FormulaField, Id, Line, Name, Role, Stem, Value

__all__ = [
    "Claim", "ClaimPart", "ClosedForm", "Share",
]  # fmt: skip


class ClosedForm(Entry):
    """A formula as printed in a paper. A test checks that it equals our count if the assumptions hold."""

    quantity: FormulaField
    formula: FormulaField
    assumes: list[FormulaField] = []
    families: list[str] | None = None
    """Model types to which the formula applies, if not all."""
    targets: list[Role] | None = None
    task: str | None = None
    set: dict[Name, Value] = {}
    source: Citation


class ClaimPart(Entry):
    """One of several methods whose ledgers a printed number adds up."""

    method: Id
    times: int = Field(default=1, ge=1)
    set: dict[Name, Value] = {}
    targets: list[Role] | None = None
    target_modules: list[str] | Literal["all-linear"] | None = None


class Claim(Entry):
    """A printed number. A test recomputes it to the printed digits."""

    id: Id
    quantity: FormulaField
    """A formula over `trained`, `stored`, `stored_bits`, `stored_bytes`, `shared`, `served`, `served_bits`, `head`,
    `backbone`, `percent`, `base_bytes` and dimensions."""
    model: Id
    set: dict[Name, Value] = {}
    targets: list[Role] | None = None
    target_modules: list[str] | Literal["all-linear"] | None = None
    parts: list[ClaimPart] | None = None
    """The methods that the source counted, if not this method once. Their ledgers are added up."""
    task: str | None = None
    num_labels: int = 2
    reported: Stem
    """The number as printed: `37.7M`, `0.08%`, `20,480`."""
    source: Citation
    evidence: Literal["read", "second_hand"]
    """`read`: we opened the source itself. `second_hand`: we opened a page that quotes it. A number known only from
    memory is not a claim."""
    verdict: Literal["reproduced", "convention", "contradicted", "unverifiable"] = "reproduced"
    """`convention`: the number is reproduced only under the convention in `note`. `contradicted`: our count differs."""
    note: Line | None = None

    @model_validator(mode="after")
    def _explained(self) -> Self:
        if self.verdict != "reproduced" and not self.note:
            raise ValueError(f"a verdict of {self.verdict} needs a note with the reason")
        return self


class Share(Entry):
    """A share or multiple in the entry's prose, either computed or taken from a source."""

    text: Line
    """The words exactly as in the prose."""
    quantity: FormulaField | None = None
    """A formula over the names of a claim's quantity. With the prefix `other_` a name refers to `beside`."""
    between: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    """The smallest and the largest value that the words allow."""
    model: Id | None = None
    set: dict[Name, Value] = {}
    targets: list[Role] | None = None
    target_modules: list[str] | Literal["all-linear"] | None = None
    parts: list[ClaimPart] | None = None
    beside: ClaimPart | None = None
    """Another method, or another setting of this one, to which the words compare it."""
    task: str | None = None
    num_labels: int = 2
    source: Citation | None = None
    """The source of a number that is not a count: a time, a quality, a published share."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        computed = [self.quantity, self.between, self.model]
        if any(v is not None for v in computed) and any(v is None for v in computed):
            raise ValueError("a computed share has a quantity, a model, and the values it lies between")
        if (self.quantity is None) == (self.source is None):
            raise ValueError("a share has either a quantity or a source")
        return self
