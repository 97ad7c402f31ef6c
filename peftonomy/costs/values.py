"""Values that a caller gives for hyperparameters, from Python or as text, made into what the entry declares."""

from __future__ import annotations

import math
import operator
from typing import Any

from ..errors import UnknownName, UsageError, shown
from ..schema.method import Hyperparameter, Value

__all__ = ["coerced"]

LARGEST = 2**31
"""Largest magnitude of a hyperparameter."""
KIND = {"int": "a whole number", "float": "a number", "bool": "true or false"}
BOOLEANS = {"true": True, "false": False, "1": True, "0": False}


def coerced(name: str, spec: Hyperparameter, raw: Any) -> Value:
    """A value given for hyperparameter `name`, as its own type.

    Text is read as the command line has it; a float is no whole number and a boolean no number. Raises UsageError.
    """
    if spec.type == "choice":
        word, words = str(raw).lower(), spec.values or []
        if word not in words:
            raise UnknownName(f"value of {name}", str(raw), words)
        return word
    try:
        value = _READ[spec.type](raw)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise UsageError(f"hyperparameter {name}: found {shown(str(raw))!r}; expected {KIND[spec.type]}") from None
    if abs(value) > LARGEST:
        raise UsageError(f"hyperparameter {name} = {shown(str(raw))} is beyond 2**31")
    return value


def _whole(raw: Any) -> int:
    if isinstance(raw, bool):
        raise TypeError
    return int(raw) if isinstance(raw, str) and len(raw) < 20 else operator.index(raw)


def _number(raw: Any) -> float:
    value = float(raw)
    if isinstance(raw, bool) or not math.isfinite(value):
        raise TypeError
    return value


def _boolean(raw: Any) -> bool:
    return raw if isinstance(raw, bool) else BOOLEANS[str(raw).lower()]


_READ = {"int": _whole, "float": _number, "bool": _boolean}
