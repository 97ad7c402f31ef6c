"""The errors of peftonomy, each readable as one line.

PeftonomyError
├── DataError        invalid data in a file; carries every problem found         exit code 1
│   ├── FormulaError     a formula that the language does not accept
│   └── ConfigError      a config.json of a model that cannot be counted
└── UsageError       an invalid request of the caller                            exit code 2
    └── UnknownName      a name that does not exist, with near matches
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

__all__ = ["ConfigError", "DataError", "FormulaError", "PeftonomyError", "Problem", "UnknownName", "UsageError"]

T = TypeVar("T")
SHOWN = 80
"""The number of characters of a user's value that a message repeats."""
PATH_SHOWN = 200
"""The number of characters of a path that a message repeats."""
LISTED_TEXT = 600
"""The number of characters of known names up to which a message lists them."""
LONGEST = 200
"""The number of characters of a name that are compared with known names."""


def near(name: object, known: Iterable[str], n: int = 3) -> list[str]:
    """Return the known names closest to `name`, best first."""
    lower = {k.lower(): k for k in known}
    text = name[:LONGEST] if isinstance(name, str) else shown(name)
    return [lower[m] for m in difflib.get_close_matches(text.lower(), lower, n=n, cutoff=0.6)]


def escaped(text: str) -> str:
    """Return text on one line, with control and direction marks escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shown(value: object) -> str:
    """Return a value on one line, cut to `SHOWN` characters, with control and direction marks escaped."""
    text = value if isinstance(value, str) else _text_of(value)
    text = escaped(text if len(text) <= SHOWN else text[: SHOWN - 1] + "…")
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


def _text_of(value: object) -> str:
    try:
        return repr(value)
    except Exception:  # an integer of more digits than Python prints, many levels, an object of the caller
        if isinstance(value, int):
            return f"an integer of {value.bit_length():,} bits"
        return f"a {type(value).__name__} that cannot be printed"


def described(value: object) -> str:
    """Return a value of a YAML or JSON document in a message, with the words of these formats."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return f"a mapping of {len(value)}"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if isinstance(value, int) and abs(value) > 2**53:
        return "a number beyond 2**53"
    return shown(_text_of(value))


def shortened(path: str) -> str:
    """Return a path on one line; of a very long one only the end."""
    text = escaped(path)
    return text if len(text) <= PATH_SHOWN else "…" + text[1 - PATH_SHOWN :]


@dataclass(frozen=True, order=True, slots=True)
class Problem:
    """One problem in one file. Problems sort by file, then line."""

    file: str
    line: int
    field: str
    found: str
    expected: str
    hint: str = ""
    rule: str = ""

    def __str__(self) -> str:
        where = ":".join(str(p) for p in (shortened(self.file), self.line or "") if p)
        head = ": ".join(p for p in (where, shown(self.field)) if p)
        body = "; ".join(p for p in (f"found {shown(self.found)}", f"expected {self.expected}", self.hint) if p)
        return escaped(f"{head}: {body}" + (f" [{self.rule}]" if self.rule else ""))


class PeftonomyError(Exception):
    """The base of all errors that peftonomy raises on purpose."""

    exit_code = 2

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the attributes, because the message alone cannot recreate an error of every class."""
        return _rebuilt, (type(self), self.args, vars(self))


def _rebuilt(kind: type[PeftonomyError], args: tuple[Any, ...], attributes: dict[str, Any]) -> PeftonomyError:
    error = kind.__new__(kind, *args)
    vars(error).update(attributes)
    return error


class DataError(PeftonomyError):
    """Invalid data in a file. `problems` lists all problems, sorted."""

    exit_code = 1

    def __init__(self, problems: Sequence[Problem]):
        self.problems = tuple(sorted(problems))
        super().__init__("\n".join(map(str, self.problems)))


class FormulaError(DataError):
    """A formula that the language rejects: `text`, the 1-based `column` and the `message`."""

    def __init__(self, text: str, column: int, message: str):
        self.text, self.column, self.message = text, column, message
        super().__init__([Problem("formula", 0, f"column {column}", text, "a formula", message)])

    def __str__(self) -> str:
        return f"formula {shown(self.text)!r}, column {self.column}: {self.message}"


class ConfigError(DataError):
    """A config.json (or a catalogued model) of a model that cannot be counted."""

    def __init__(self, source: str, field: str, found: object, expected: str, hint: str = "", line: int = 0):
        super().__init__([Problem(source, line, field, shown(found), expected, hint)])


class UsageError(PeftonomyError):
    """An invalid request of the caller, in one line. `about`: the hyperparameters that it concerns."""

    def __init__(self, *args: object, about: Iterable[str] = ()):
        super().__init__(*args)
        self.about = frozenset(about)


class UnknownName(UsageError, KeyError):  # noqa: N818 (it reads as what happened)
    """A name that is not among the known ones. It is also a KeyError, as for any mapping."""

    LISTED = 40
    """The number of known names up to which a message lists them."""

    def __init__(self, kind: str, name: object, known: Iterable[str], where: str = ""):
        self.kind, self.name, self.known = kind, name if isinstance(name, str) else shown(name), sorted(known)
        matches = near(self.name, self.known)
        parts = [f"unknown {kind} {shown(self.name)!r}" + (f" {where}" if where else "")]
        if matches:
            parts.append("did you mean " + " or ".join(matches) + "?")
        listed = ", ".join(self.known) or "none"
        if len(self.known) <= self.LISTED and len(listed) <= LISTED_TEXT:
            parts.append(f"known: {listed}")
        super().__init__("; ".join(parts))

    def __str__(self) -> str:
        return str(self.args[0])  # a KeyError would show the text's repr


def whole(text: str) -> int:
    """Return a whole number in ASCII digits. Raises ValueError; Python's `int` also reads `1_000` and other digits."""
    if not re.fullmatch("[-+]?[0-9]{1,19}", text.strip()):
        raise ValueError(f"found {shown(text)!r}; expected a whole number")
    return int(text)


def chosen(kind: str, name: Any, known: Mapping[str, T]) -> T:
    """Return the value of a name in a table. Raises UnknownName, also for a name that is no text."""
    if not isinstance(name, str) or name not in known:
        raise UnknownName(kind, name, known)
    return known[name]


def id_list(given: Iterable[str], name: str = "methods") -> list[str]:
    """Return ids, each once. Raises UsageError for anything but several texts."""
    several = isinstance(cast(object, given), Iterable) and not isinstance(given, str | Mapping)
    try:
        found = list(given) if several else []
    except Exception:  # of the caller's object
        several, found = False, []
    if not several or not all(isinstance(cast(object, one), str) for one in found):
        raise UsageError(f"{name}: found {shown(given)}; expected a list of ids")
    return list(dict.fromkeys(found))
