"""The evidence for each fact of an entry, in one vocabulary.

- run: a test checks it against an independent implementation: the authors' code, a library, a real model.
- read: we opened the source.
- second_hand: we know it from an abstract, or from a named text.
- unread: we have not read the source.

Facts that an entry declares as our own judgement (`editors`) have no level.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import DataError, Problem, described
from ..files.documents import MAX_BYTES
from ..files.reading import read_object

if TYPE_CHECKING:
    from ..catalogue.records import MethodRecord, Records
    from ..schema.implementations import Implementation

__all__ = ["LEVELS", "Fact", "Recording", "facts", "level", "recorded", "recordings", "tally"]

Level = Literal["run", "read", "second_hand", "unread"]
LEVELS: dict[str, str] = {
    "run": "A test executes it.",
    "read": "We opened the source.",
    "second_hand": "We know it from an abstract, or from a named text.",
    "unread": "We have not read the source.",
}
"""The levels, from the strongest, each with its meaning."""
FILE = re.compile(r"\.\w|/|:")
"""Matches the locator of a code file, and not that of a section or table of a paper."""


@dataclass(frozen=True)
class Fact:
    """One fact of an entry: its field, its level and its evidence."""

    keys: tuple[str | int, ...]
    level: Level
    by: str

    @property
    def field(self) -> str:
        """The dotted path of the field in the entry."""
        return ".".join(map(str, self.keys))


@dataclass(frozen=True)
class Recording:
    """The contents of a golden vector that can be listed without running it. See `conformance.golden`."""

    name: str
    method: str
    implementation: str
    recipe: Mapping[str, Any]
    init: frozenset[str]
    trained: frozenset[str]
    defaults: frozenset[str]
    outputs: frozenset[str]

    @property
    def origin(self) -> str:
        """The repository, commit and file, in short."""
        place = "/".join(str(self.recipe["repository"]).rstrip("/").rsplit("/", 2)[-2:])
        return f"{place}@{str(self.recipe['commit'])[:7]}, {self.recipe['file']}"


def recordings(root: Path) -> list[Recording]:
    """Return all golden vectors below a root. Raises DataError for a file that is none."""
    return [_recording(path, path.lstat().st_mtime_ns) for path in sorted((root / "golden").glob("*.json"))]


def recorded(method: MethodRecord) -> list[Recording]:
    """Return the golden vectors of one method. The files are read once for a knowledge base."""
    kept: dict[str, list[Recording]] | None = method.kb.memo.get("recordings")
    if kept is None:
        kept = method.kb.memo["recordings"] = {}
        for recording in recordings(method.kb.root):
            kept.setdefault(recording.method, []).append(recording)
    return kept.get(method.id, [])


@lru_cache(maxsize=1024)
def _recording(path: Path, changed: int) -> Recording:
    name = f"{path.parent.name}/{path.name}"
    data = read_object(path, name, MAX_BYTES, "a golden vector")
    recipe = data.get("recipe")
    if not isinstance(recipe, dict) or not {"repository", "commit", "file"} <= recipe.keys() or "method" not in data:
        expected = "a method, and a recipe with repository, commit and file"
        raise DataError([Problem(name, 0, "", f"an object of {len(data)} keys", expected)])
    held = {}
    for field in ("init", "trained", "frozen", "defaults", "outputs"):
        if not isinstance(found := data.get(field, {}), dict | list):
            raise DataError([Problem(name, 0, field, described(found), "an object")])
        held[field] = frozenset(map(str, found))
    return Recording(
        path.stem, str(data["method"]), str(data.get("implementation", "official")), recipe, held["init"],
        held["trained"] | held["frozen"], held["defaults"], held["outputs"],
    )  # fmt: skip


def level(kb: Records[Any], citation: str) -> Level | None:
    """Return the level of a cited source; None for our own judgement."""
    key, _, locator = citation.partition("#")
    if key == "editors" or key not in kb.references:
        return None
    source = kb.references[key]
    if source.opened("paper") or (source.opened("code") and (not locator or FILE.search(locator))):
        return "read"
    if source.opened("abstract"):
        return "read" if locator.startswith(("abstract", "title")) else "unread" if locator else "second_hand"
    return "unread"


def facts(method: MethodRecord) -> list[Fact]:
    """Return every fact of an entry with its level, in the order of the entry."""
    return list(_facts(method))


def tally(found: list[Fact]) -> dict[str, int]:
    """Return the number of facts of each level, in the order of `LEVELS`."""
    counted = Counter[str](fact.level for fact in found)
    return {word: counted[word] for word in LEVELS}


def _facts(method: MethodRecord) -> Iterator[Fact]:
    kb, entry = method.kb, method.entry
    vectors = recorded(method)
    libraries = [(key, found) for key, found in entry.implementations.items() if found.checked]

    def cited(keys: tuple[str | int, ...], source: str | None) -> Iterator[Fact]:
        known = level(kb, source) if source else None
        if known is not None and source is not None:
            yield Fact(keys, known, source)

    yield from _run_or(("update",), vectors, "outputs", None, libraries, "outputs") or cited(("update",), entry.source)
    keys: tuple[str | int, ...]
    for name, spec in entry.hyperparameters.items():
        keys = ("hyperparameters", name, "default")
        yield from _run_or(keys, vectors, "defaults", name, (), "") or cited(keys, spec.source)
    if entry.targets is not None:
        yield from cited(("targets", "default"), entry.targets.source)
    for name in entry.tensors:
        yield Fact(("tensors", name, "shape"), "run", "the behaviour suite, on real models")
        keys = ("tensors", name, "init")
        yield from _run_or(keys, vectors, "init", name, libraries, "start") or cited(keys, entry.source)
        keys = ("tensors", name, "trained")
        yield from _run_or(keys, vectors, "trained", name, libraries, "counts") or cited(keys, entry.source)
    for i, form in enumerate(entry.closed_forms):
        yield from cited(("closed_forms", i), form.source)
    for i, claim in enumerate(entry.claims):
        yield Fact(("claims", i), claim.evidence, claim.source)
    for i, rate in enumerate(entry.learning_rates):
        yield from cited(("learning_rates", i), rate.source)
    for i, relation in enumerate(entry.relations):
        yield from cited(("relations", i), relation.source)
    for i, pitfall in enumerate(entry.pitfalls):
        yield from cited(("pitfalls", i), pitfall.source)
    for key, implementation in entry.implementations.items():
        for i, deviation in enumerate(implementation.deviations):
            keys = ("implementations", key, "deviations", i)
            if deviation.golden:
                yield Fact(keys, "run", "; ".join(v.origin for v in vectors) or "a golden vector")
            else:
                yield from cited(keys, deviation.source or implementation.source)


def _run_or(
    keys: tuple[str | int, ...], vectors: list[Recording], what: str, name: str | None,
    libraries: Any, checked: str,
) -> list[Fact]:
    """Return the fact with level `run` if the authors' code or else a library checks it; otherwise an empty list."""
    for vector in vectors:
        held: frozenset[str] = getattr(vector, what)
        if held if name is None else any(key.partition("#")[0] == name for key in held):
            return [Fact(keys, "run", vector.origin)]
    found: tuple[str, Implementation]
    for found in libraries:
        if checked in found[1].checked:
            return [Fact(keys, "run", found[0])]
    return []
