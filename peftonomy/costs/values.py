"""Convert hyperparameter values from Python or text to their declared types."""

from __future__ import annotations

import math
import operator
from typing import Any

from ..errors import UnknownName, UsageError, shown
from ..schema.base import Value
from ..schema.tensors import Hyperparameter

__all__ = ["coerced"]

LARGEST = 2**31
"""The largest magnitude of a hyperparameter."""
KIND = {"int": "a whole number", "float": "a number", "bool": "true or false"}
BOOLEANS = {"true": True, "false": False, "1": True, "0": False}


def coerced(name: str, spec: Hyperparameter, raw: Any) -> Value:
    """Return a value for hyperparameter `name` in its declared type.

    Text is parsed as on the command line. A float is not a whole number, and a boolean is not a number. Raises
    UsageError.
    """
    if spec.type == "choice":
        word, words = str(raw).lower(), spec.values or []
        if word not in words:
            raise UnknownName(f"value of {name}", str(raw), words)
        return word
    try:
        value = _READ[spec.type](raw)
    except (KeyError, TypeError, ValueError, OverflowError):
        text = f"hyperparameter {name}: found {shown(str(raw))!r}; expected {KIND[spec.type]}"
        raise UsageError(text, about=[name]) from None
    if abs(value) > LARGEST:
        raise UsageError(f"hyperparameter {name} = {shown(str(raw))} is beyond 2**31", about=[name])
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
