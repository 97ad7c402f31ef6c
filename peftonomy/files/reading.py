"""Read a file from outside: only regular files, of a limited size, in UTF-8, and JSON without ambiguity."""

from __future__ import annotations

import json
import math
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..errors import DataError, Problem, described, shown

__all__ = ["read_lines", "read_object", "read_text"]

MOST_DIGITS = 400
"""The number of digits of the largest integer in a JSON file. The largest float has 309."""


def read_text(path: Path, name: str, most: int, expected: str = "a readable file", end: int | None = None) -> str:
    """Return the text of a file, without a byte order mark and with `\\n` as line ends.

    Devices and pipes might never end, so they are refused. name: the file's name in messages. most: the largest number
    of bytes. expected: the kind of file, in messages. end: the number of bytes to read; all without it. Raises
    DataError.
    """

    def refused(found: str, wanted: str = expected, line: int = 0) -> DataError:
        return DataError([Problem(name, line, "", found, wanted)])

    try:
        if not stat.S_ISREG(mode := path.stat().st_mode):
            raise refused("a folder" if stat.S_ISDIR(mode) else "no regular file")
        with path.open("rb") as file:
            raw = file.read(most + 1)
    except OSError as error:
        raise refused(error.strerror or "a file that cannot be read") from None
    except ValueError:  # a null character
        raise refused("no name of a file") from None
    if len(raw) > most:
        raise refused(f"more than {most:,} bytes", f"{expected} of at most {most:,}")
    raw = raw[:end]
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise refused("bytes that are not UTF-8", "UTF-8 text", raw.count(b"\n", 0, error.start) + 1) from None
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def read_object(path: Path, name: str, most: int, expected: str) -> dict[str, Any]:
    """Return the object in a JSON file. A key that occurs twice is an error, and so is NaN. Raises DataError."""

    def refused(found: str, wanted: str, line: int = 0) -> DataError:
        return DataError([Problem(name, line, "", found, wanted)])

    return _parsed(read_text(path, name, most, expected), refused, expected)


def read_lines(path: Path, name: str, most: int, end: int | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects of a file with one JSON object a line, each with the number of its line. Raises DataError.

    Lines end with a line feed alone: JSON allows U+2028 and other ends of lines in a text.
    """
    content = read_text(path, name, most, end=end)
    for number, text in enumerate(content.removesuffix("\n").split("\n") if content else (), start=1):

        def refused(found: str, wanted: str, line: int = 0, at: int = number) -> DataError:
            return DataError([Problem(name, at, "", found, wanted)])

        yield number, _parsed(text, refused, "a line with one JSON object")


def _parsed(text: str, refused: Callable[..., DataError], expected: str) -> dict[str, Any]:
    try:
        data = json.loads(text, object_pairs_hook=_object, parse_constant=_constant, parse_int=_integer,
                          parse_float=_float)  # fmt: skip
    except RecursionError:
        raise refused("deep nesting", f"the few levels of {expected}") from None
    except json.JSONDecodeError as error:
        raise refused(f"{error.msg}, column {error.colno}", "valid JSON", error.lineno) from None
    except ValueError as error:  # from one of the functions below
        raise refused(str(error), "valid JSON") from None
    if not isinstance(data, dict):
        raise refused(described(data), "a JSON object")
    return data


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, value in pairs:
        if key in made:
            raise ValueError(f"the key {shown(key)} twice")
        made[key] = value
    return made


def _constant(text: str) -> None:
    raise ValueError(f"{text}, which JSON does not have")


def _float(text: str) -> float:
    if math.isinf(value := float(text)):
        raise ValueError(f"{shown(text)}, which is beyond the range of numbers")
    return value


def _integer(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise ValueError(f"a number of {len(text):,} digits")
    return int(text)
