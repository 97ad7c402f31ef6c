"""The schema of a method entry. The pydantic models below are its only definition.

JSON Schema for editors, the site's field table and the template of `peftonomy new` are generated from them. An entry
declares tensors; every count is derived from them (`costs`). The docstrings of the fields are their documentation.
"""

from __future__ import annotations

import keyword
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    Field,
    model_validator,
)

from ..errors import DataError, Problem, described, near
from ..files.documents import Document, dotted
from ..formula import FUNCTIONS
from .base import JS_RESERVED, Argument, Category, Citation, Entry, FormulaField, Id, Line, Name, Prose, Stem, validated
from .claims import Claim, ClosedForm, Share
from .combines import Combines
from .implementations import Basis, Implementation, Pitfall, Relation, Shared, nothing_shared
from .memory import Memory
from .rates import LearningRate
from .tensors import BaseStorage, Hyperparameter, Include, Properties, Targets, Tensor

__all__ = [
    "Meaning", "MethodEntry", "method_from",
]


class Meaning(Entry):
    """The meaning of a symbol: a text, or the tensors for which it stands, or both."""

    means: Line | None = None
    tensors: list[Argument] = []
    """Names of this entry's tensors, with the prefix for those of an included entry."""

    @model_validator(mode="before")
    @classmethod
    def _short(cls, data: Any) -> Any:
        """Read a text alone as the meaning."""
        return {"means": data} if isinstance(data, str) else data

    @model_validator(mode="after")
    def _given(self) -> Self:
        if self.means is None and not self.tensors:
            raise ValueError("a symbol needs a meaning, or the tensors for which it stands")
        return self


class MethodEntry(Entry):
    """One PEFT method, declared in `methods/<id>.yaml`."""

    id: Id
    name: Stem
    full_name: Line
    aliases: list[Stem] = []
    """Other names and abbreviations that people search for."""
    year: int = Field(ge=1990, le=2100)
    category: Category
    facets: dict[Id, Id | Annotated[list[Id], Field(min_length=1)]]
    summary: Annotated[str, Field(min_length=20, max_length=160, pattern=r"^[A-Z][^\n\\$*^_{}<>=]*\.$")]
    """One plain sentence without symbols."""
    description: Prose
    """The method's function, its motivation, and when to use it or not, for a graduate student. No mathematics in the
    first paragraph."""
    source: Citation
    update: Annotated[str, Field(min_length=1, max_length=1000)]
    """The update rule in LaTeX."""
    symbols: dict[Stem, Meaning] = {}
    """The meaning of symbols of the update rule, by their LaTeX. Tensors and hyperparameters with the name of a symbol
    explain it without an entry here, as does `taxonomy/symbols.yaml`."""
    where: Line
    """The location in the network where the method acts, in a sentence."""
    hyperparameters: dict[Name, Hyperparameter] = {}
    targets: Targets | None = None
    requires: FormulaField | None = None
    """A condition on every targeted module, for example `r <= min(d_in, d_out)`."""
    tensors: dict[Name, Tensor] = {}
    includes: list[Include] = []
    base_storage: dict[Name, BaseStorage] = {}
    properties: Properties
    combines: Combines | None = None
    memory: Memory | None = None
    closed_forms: list[ClosedForm] = []
    claims: list[Claim] = []
    shares: list[Share] = []
    learning_rates: list[LearningRate] = []
    """Learning rates that the authors' code, libraries and others use, each with its model and task."""
    relations: list[Relation] = []
    pitfalls: list[Pitfall] = []
    implementations: dict[Id, Implementation] = {}
    basis: Basis | None = None
    """The evidence for update, initial values and defaults, if we did not run the authors' code."""

    @model_validator(mode="before")
    @classmethod
    def _required(cls, data: Any) -> Any:
        """Copy the entry's `requires` to its tensors per site."""
        if not isinstance(data, dict) or "requires" not in data or not isinstance(data.get("tensors"), dict):
            return data
        tensors = {
            name: {"requires": data["requires"], **tensor}
            if isinstance(tensor, dict) and tensor.get("per") == "site" else tensor
            for name, tensor in data["tensors"].items()
        }  # fmt: skip
        return data | {"tensors": tensors}

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if not self.tensors and not self.includes:
            raise ValueError("an entry declares at least one tensor, or includes another entry")
        for name in self.hyperparameters:
            if keyword.iskeyword(name) or name in JS_RESERVED or name in FUNCTIONS:
                raise ValueError(f"hyperparameter {name!r} is a reserved word; choose another name")
        if self.targets is None and any(t.per in ("site", "role") for t in self.tensors.values()):
            raise ValueError("a tensor per site or role needs `targets`")
        return self

    @cached_property
    def alternative_names(self) -> Mapping[str, str]:
        """A library's name for a hyperparameter -> ours."""
        found: dict[str, str] = {}
        for implementation in self.implementations.values():
            for ours, theirs in implementation.rename.items():
                if theirs not in self.hyperparameters and "." not in theirs:
                    found.setdefault(theirs, ours)
        return found

    def prose(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Yield every text for readers, with its location."""
        yield from _prose(self.model_dump(by_alias=True), ())

    def citations(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Yield every cited source, with its location."""
        yield from _citations(self.model_dump(by_alias=True), ())

    @cached_property
    def cited(self) -> frozenset[str]:
        """The key of every cited source; `editors` marks our own choices."""
        return frozenset(source.partition("#")[0] for _, source in self.citations())


def _prose(value: Any, keys: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in ("summary", "description", "note", "meaning", "reason") and isinstance(inner, str):
                yield (*keys, key), " ".join(inner.split())
            else:
                yield from _prose(inner, (*keys, key))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _prose(inner, (*keys, i))


def _citations(value: Any, keys: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "source" and isinstance(inner, str):
                yield (*keys, key), inner
            else:
                yield from _citations(inner, (*keys, key))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _citations(inner, (*keys, i))


def method_from(
    document: Document, path: Path | None = None, shared: Callable[[], Shared] = nothing_shared
) -> MethodEntry:
    """Read a method entry from its parsed file. The id must equal the file's stem.

    shared: the deviations of taxonomy/deviations.yaml, which are read only if the entry names one. Raises DataError.
    """
    if not isinstance(document.data, dict):
        raise DataError(
            [Problem(document.path, 1, "", described(document.data), "a mapping of fields", "", "schema")]
        )
    entry = validated(MethodEntry, replace(document, data=_with_shared(document, shared)))
    if path is not None and entry.id != path.stem:
        raise DataError(
            [
                Problem(
                    document.path, document.line(("id",)), "id", entry.id, f"the file's stem, {path.stem}", "", "schema"
                )
            ]
        )
    return entry


def _with_shared(document: Document, shared: Callable[[], Shared]) -> Any:
    """Return an entry's data with shared deviations filled in. Raises DataError for an id that no library declares."""
    data, problems = document.data, []
    implementations = data.get("implementations")
    if not isinstance(implementations, dict):
        return data
    filled = dict(implementations)
    for library, one in implementations.items():
        if not isinstance(one, dict) or not isinstance(one.get("deviations"), list):
            continue
        rows = list(one["deviations"])
        for i, row in enumerate(rows):
            if not isinstance(row, dict) or "shared" not in row:
                continue
            known = shared().get(library, {})
            if row["shared"] in known:
                rows[i] = known[row["shared"]].model_dump(exclude_unset=True) | row
                continue
            keys = ("implementations", library, "deviations", i, "shared")
            matches = near(str(row["shared"]), known)
            hint = f"did you mean {' or '.join(matches)}?" if matches else ""
            expected = f"a deviation that taxonomy/deviations.yaml has for {library}"
            problems.append(
                Problem(document.path, document.line(keys), dotted(keys), str(row["shared"]), expected, hint, "schema")
            )
        filled[library] = one | {"deviations": rows}
    if problems:
        raise DataError(problems)
    return data | {"implementations": filled}
