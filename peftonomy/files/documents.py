"""Read YAML strictly: accepted files mean the same to every reader.

PyYAML parses; this module rejects text that YAML 1.1 interprets in surprising ways: duplicate keys (the last one
silently wins), `on`/`off`/`yes`/`no` (booleans), `1e-4` (text), `0777` and `1:30` (other bases). It also rejects
anchors, aliases, tags and further documents, which can expand without limit or build objects. Every problem of a file
is reported, with its line.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from ..errors import DataError, Problem
from .reading import read_text

__all__ = ["Document", "load_yaml", "parse_yaml"]

MAX_BYTES = 1_000_000
MAX_DEPTH = 20
MOST_DOCUMENTS = 1000
"""The number of parsed texts that a process caches."""
MOST_PROBLEMS = 100
"""The number of problems after which a file is not read on."""
Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

INT = re.compile(r"[-+]?(0|[1-9][0-9]*)\Z")
FLOAT = re.compile(r"[-+]?(0|[1-9][0-9]*)\.[0-9]+([eE][-+]?[0-9]+)?\Z")
WORDS = {"true": True, "false": False, "null": None, "~": None, "": None}
NUMBER_LIKE = re.compile(
    r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?([eE][-+]?[0-9]+)?|0x[0-9a-fA-F]+|[0-9]+(:[0-5]?[0-9])+)\Z"
)
TRAPS = re.compile(r"(on|off|yes|no|\.nan|[-+]?\.inf)\Z", re.IGNORECASE)

Path_ = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed file: plain dicts, lists and scalars, and the first line of each."""

    path: str
    data: Any
    lines: dict[Path_, int] = field(repr=False)

    def line(self, keys: Path_ = ()) -> int:
        """Return the line of the value at `keys`, or of the nearest enclosing value in the file."""
        while keys and keys not in self.lines:
            keys = keys[:-1]
        return self.lines.get(keys, 1)


def load_yaml(path: str | Path, name: str | None = None) -> Document:
    """Read one file. `name` is its name in messages.

    Raises DataError with every problem of the file.
    """
    path, name = Path(path), name or str(path)
    return parse_yaml(read_text(path, name, MAX_BYTES), name)


@lru_cache(MOST_DOCUMENTS)
def parse_yaml(text: str, name: str = "<yaml>") -> Document:
    """Parse text in the same way as `load_yaml`. Equal text gives the same document, so do not change its data."""
    reader = _Reader(name)
    try:
        events = iter(_events(text, reader))
        data = next((reader.build(event, events, ()) for event in events), None)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        hint = "indent with spaces, not tabs" if "\t" in "".join(text.splitlines()[line - 1 : line]) else ""
        found = (error.problem or "a syntax error").removeprefix("found ")
        raise DataError([Problem(name, line, "", found, "valid YAML", hint)]) from None
    except yaml.YAMLError as error:
        raise DataError([Problem(name, 1, "", str(error).splitlines()[0], "valid YAML")]) from None
    if reader.problems:
        raise DataError(reader.problems)
    return Document(name, data, reader.lines)


def _events(text: str, reader: _Reader) -> list[Any]:
    """Return the events of the one document. Anchors, aliases, tags and further documents are rejected first."""
    depth, found, documents = 0, list[Any](), 0
    for event in yaml.parse(text, Loader=Loader):
        kind, line = type(event), event.start_mark.line + 1  # type: ignore[union-attr]  # parsed events have marks
        if kind is yaml.AliasEvent or getattr(event, "anchor", None):
            reader.refuse(line, "an anchor or alias", "the value written out")
        if tag := getattr(event, "tag", None):
            reader.refuse(line, f"the tag {tag}", "no tags")
        if kind is yaml.DocumentStartEvent:
            documents += 1
        elif kind is yaml.MappingStartEvent or kind is yaml.SequenceStartEvent:
            depth += 1
        elif kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
            depth -= 1
        if depth > MAX_DEPTH:
            reader.refuse(line, "deep nesting", f"at most {MAX_DEPTH} levels")
        if documents > 1:
            reader.refuse(line, "another document", "one document")
        if reader.problems:
            raise DataError(reader.problems)
        if isinstance(event, yaml.NodeEvent | yaml.CollectionEndEvent):
            found.append(event)
    return found


class _Reader:
    """A converter from events to plain values that records lines and problems."""

    def __init__(self, name: str):
        self.name = name
        self.lines: dict[Path_, int] = {}
        self.problems: list[Problem] = []

    def refuse(self, line: int, found: str, expected: str, keys: Path_ = (), hint: str = "") -> None:
        self.problems.append(Problem(self.name, line, dotted(keys), found, expected, hint, "yaml"))
        if len(self.problems) >= MOST_PROBLEMS:
            raise DataError(self.problems)

    def build(self, event: Any, events: Iterator[Any], keys: Path_) -> Any:
        """Return the value that begins with an event."""
        self.lines[keys] = event.start_mark.line + 1
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event, keys)
        if isinstance(event, yaml.MappingStartEvent):
            return dict(self._items(events, keys))
        children = itertools.takewhile(lambda e: not isinstance(e, yaml.SequenceEndEvent), events)
        return [self.build(child, events, (*keys, i)) for i, child in enumerate(children)]

    def _items(self, events: Iterator[Any], keys: Path_) -> Iterator[tuple[Any, Any]]:
        seen: dict[str, int] = {}
        for event in events:
            if isinstance(event, yaml.MappingEndEvent):
                return
            line = event.start_mark.line + 1
            if not isinstance(event, yaml.ScalarEvent):
                self.refuse(line, "a key that is not text", "a plain key", keys)
                _skip(event, events)
                _skip(next(events), events)
                continue
            key = event.value
            if TRAPS.match(key) and not event.style:
                self.refuse(line, f"the key {key}", "a key that YAML 1.1 does not read as true or false", keys)
            if key in seen:
                self.refuse(line, "the key again", "each key once", (*keys, key), f"first on line {seen[key]}")
            seen.setdefault(key, line)
            value = self.build(next(events), events, (*keys, key))
            self.lines[*keys, key] = line
            yield key, value

    def _scalar(self, event: Any, keys: Path_) -> Any:
        text = event.value
        if event.style:  # quoted, or a block of text
            return text
        if text.lower() in WORDS and (text.islower() or text in ("", "~")):
            return WORDS[text]
        if INT.match(text):
            return int(text) if len(text) < 30 else text
        if FLOAT.match(text) and math.isfinite(number := float(text)):
            return number
        line = event.start_mark.line + 1
        if TRAPS.match(text) or text.lower() in WORDS:
            self.refuse(line, text, "true, false or quoted text", keys)
        elif NUMBER_LIKE.match(text):
            self.refuse(line, text, "a plain number such as 8, 0.5 or 1.0e-4, or quoted text", keys)
        return text


def _skip(event: Any, events: Iterator[Any]) -> None:
    """Pass over the value that begins with an event."""
    depth = int(isinstance(event, yaml.CollectionStartEvent))
    while depth:
        event = next(events)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)


def dotted(keys: Path_) -> str:
    """Return a location in a document as text: `tensors.A.shape[0]`."""
    text = ""
    for key in keys:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else str(key)
    return text
