"""Learning rates that sources print."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .base import Citation, Entry, Line, Stem

__all__ = ["USERS", "LearningRate"]

USERS = {"authors": "the method's authors", "library": "a library's example", "others": "authors of another method"}
"""Who used a rate."""


class LearningRate(Entry):
    """The learning rate of a run that a source prints, or of several runs that differ only in their task."""

    values: list[Annotated[float, Field(gt=0, le=10)]] = Field(min_length=1, max_length=8)
    """The rates, in decimals: `0.0003`. A test finds each number in the cited file."""
    by: Literal["authors", "library", "others"] = "authors"
    model: Stem
    """The model as the source names it."""
    task: Stem
    """The task or the data."""
    note: Line | None = None
    """Anything that changes the meaning of the rate: other rates beside it, or an optimizer other than AdamW."""
    source: Citation
