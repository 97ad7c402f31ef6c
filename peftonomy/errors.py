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
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["ConfigError", "DataError", "FormulaError", "PeftonomyError", "Problem", "UnknownName", "UsageError"]

SHOWN = 80
"""The number of characters of a user's value that a message repeats."""


def near(name: str, known: Iterable[str], n: int = 3) -> list[str]:
    """Return the known names closest to `name`, best first."""
    lower = {k.lower(): k for k in known}
    return [lower[m] for m in difflib.get_close_matches(str(name).lower(), lower, n=n, cutoff=0.6)]


def shown(value: object) -> str:
    """Return a value on one line, cut to `SHOWN` characters, with control and direction marks escaped."""
    text = value if isinstance(value, str) else repr(value)
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


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
        where = ":".join(str(p) for p in (self.file, self.line or "") if p)
        head = ": ".join(p for p in (where, shown(self.field)) if p)
        body = "; ".join(p for p in (f"found {shown(self.found)}", f"expected {self.expected}", self.hint) if p)
        return f"{head}: {body}" + (f" [{self.rule}]" if self.rule else "")


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

    def __init__(self, source: str, field: str, found: object, expected: str, hint: str = ""):
        super().__init__([Problem(source, 0, field, shown(found), expected, hint)])


class UsageError(PeftonomyError):
    """An invalid request of the caller, in one line. `about`: the hyperparameters that it concerns."""

    def __init__(self, *args: object, about: Iterable[str] = ()):
        super().__init__(*args)
        self.about = frozenset(about)


class UnknownName(UsageError, KeyError):  # noqa: N818 (it reads as what happened)
    """A name that is not among the known ones. It is also a KeyError, as for any mapping."""

    LISTED = 40

    def __init__(self, kind: str, name: str, known: Iterable[str], where: str = ""):
        self.kind, self.name, self.known = kind, name, sorted(known)
        matches = near(name, self.known)
        parts = [f"unknown {kind} {shown(name)!r}" + (f" {where}" if where else "")]
        if matches:
            parts.append("did you mean " + " or ".join(matches) + "?")
        if len(self.known) <= self.LISTED:
            parts.append("known: " + (", ".join(self.known) or "none"))
        super().__init__("; ".join(parts))

    def __str__(self) -> str:
        return str(self.args[0])  # a KeyError would show the text's repr
