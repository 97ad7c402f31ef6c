"""The schema of `taxonomy/unmerged.yaml`: the kernel launches of unmerged adapters, and published slowdowns.

Tests count the launches in the library.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from .base import Citation, Entry, Id, Line, Name, Prose, Stem

__all__ = ["Launches", "Slowdown", "Unmerged"]


class Launches(Entry):
    """The operations that one adapted linear layer adds to a forward pass in the library, without views."""

    config: dict[Name, Any]
    """What the configuration sets, as a saved one does."""
    same: int = Field(ge=1)
    """With adapter and model in one data type."""
    mixed: int = Field(ge=1)
    """With the adapter in float32 and the model in bfloat16, the library's default."""


class Slowdown(Entry):
    """A published measurement with and without an unmerged adapter."""

    what: Line
    measure: Line
    against: Literal["merged", "base"]
    """Compared with the merged model, or with the model without an adapter."""
    without: Stem
    with_: Stem = Field(alias="with")
    source: Citation


class Unmerged(Entry):
    """taxonomy/unmerged.yaml"""

    library: Id
    note: Prose
    launches: dict[Id, Launches]
    published: list[Slowdown]

    def citations(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """Yield every citation with its place in the file."""
        yield from ((("published",), one.source) for one in self.published)
