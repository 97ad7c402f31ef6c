"""Convert hyperparameter values from Python or text to their declared types."""

from __future__ import annotations

import math
import operator
import re
from typing import Any

from ..errors import UnknownName, UsageError, shown, whole
from ..schema.base import Value
from ..schema.tensors import Hyperparameter

__all__ = ["coerced"]

LARGEST = 2**31
"""The largest magnitude of a hyperparameter."""
NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?\Z")
KIND = {"int": "a whole number", "float": "a number", "bool": "true or false"}
BOOLEANS = {"true": True, "false": False, "1": True, "0": False}


def coerced(name: str, spec: Hyperparameter, raw: Any) -> Value:
    """Return a value for hyperparameter `name` in its declared type.

    Text is parsed as on the command line. A float is not a whole number, and a boolean is not a number. Raises
    UsageError.
    """
    if spec.type == "choice":
        text, words = raw if isinstance(raw, str) else shown(raw), spec.values or []
        if text.lower() not in words:
            raise UnknownName(f"value of {name}", text, words)
        return text.lower()
    try:
        value = _READ[spec.type](raw)
    except (KeyError, TypeError, ValueError, OverflowError):
        text = f"hyperparameter {name}: found {shown(raw)!r}; expected {KIND[spec.type]}"
        raise UsageError(text, about=[name]) from None
    if abs(value) > LARGEST:
        raise UsageError(f"hyperparameter {name} = {shown(raw)} is beyond 2**31", about=[name])
    return value


def _whole(raw: Any) -> int:
    if isinstance(raw, bool):
        raise TypeError
    return whole(raw) if isinstance(raw, str) else operator.index(raw)


def _number(raw: Any) -> float:
    if isinstance(raw, str) and not NUMBER.match(raw.strip()):  # Python also reads 1_0, and digits of other scripts
        raise ValueError
    value = float(raw)
    if isinstance(raw, bool) or not math.isfinite(value):
        raise TypeError
    return value


def _boolean(raw: Any) -> bool:
    return raw if isinstance(raw, bool) else BOOLEANS[str(raw).lower()]


_READ = {"int": _whole, "float": _number, "bool": _boolean}
