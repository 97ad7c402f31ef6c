"""Read a config.json strictly, because every count depends on it.

Every required key must be present, and every number must be in its valid range. Each error is a ConfigError in one
line.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigError, DataError, described
from ..files.reading import read_object
from ..patterns import linear
from ..schema.family import ConfigKey, Family

__all__ = ["MAX_BYTES", "MAX_LAYERS", "MAX_PARAMETERS", "MISSING", "lookup", "read_json", "values"]

MAX_BYTES = 1_000_000
MAX_LAYERS = 10_000
MAX_PARAMETERS = 2**53
"""The largest number of parameters. Beyond it, floating point (JSON readers, JavaScript) is not exact for every
integer."""
SINGLE_LAYERS = "per_layer_config"
"""The key with which `transformers` sets the sizes of single layers. A family file cannot express it."""
MISSING: Any = object()


def read_json(path: str | Path, file: str = "config.json") -> dict[str, Any]:
    """Return the object in a JSON file, or in the `file` of a folder. Raises ConfigError for anything else."""
    expected = f"{'an' if file[0] in 'aeiou' else 'a'} {file}"
    where = Path(path)
    if os.path.isdir(path):  # noqa: PTH112 (a path that no system accepts is no folder)
        where = where / file
    try:
        return read_object(where, str(path), MAX_BYTES, expected)
    except DataError as error:
        [problem] = error.problems
        raise ConfigError(str(path), "", problem.found, problem.expected, line=problem.line) from None


def values(source: str, raw: Mapping[str, Any], family: Family) -> dict[str, Any]:
    """Return the values for the family's formulas, each checked by itself and then together."""
    if raw.get(SINGLE_LAYERS) and family.config:  # an inferred family has no formulas and may differ by layer
        raise ConfigError(source, SINGLE_LAYERS, "sizes of single layers", "layers that are alike")
    values: dict[str, Any] = {}
    for name, key in family.config.items():
        label, given = _given(source, raw, (key.key or name, *key.aliases))
        filled = given in (None, MISSING) or (key.type == "layers" and key.pattern is not None and given == [])
        found = _filled(key, given is None, values) if filled else _item(key, given)
        if found is None:
            seen = "null" if given is None else "nothing"
            raise ConfigError(source, label, seen, f"{_expected(key)}, which {family.name} needs")
        try:
            values[name] = found if filled and key.type == "layers" else _value(key, found, values)
        except ValueError:
            raise ConfigError(source, label, described(found), _expected(key)) from None
    for formula in family.requires:
        if not formula(values):
            names = sorted(formula.names)
            seen = ", ".join(f"{n} = {values[n]}" for n in names)
            raise ConfigError(source, " and ".join(names), seen, f"{formula.source}, as in {family.name}")
    return values


def _given(source: str, raw: Mapping[str, Any], labels: Sequence[str]) -> tuple[str, Any]:
    """Return the first of a key's names that the config has, and its value; else the key's name and null or MISSING."""
    found = [(label, lookup(source, raw, label)) for label in labels]
    return next((pair for pair in found if pair[1] not in (None, MISSING)), found[0])


def lookup(source: str, raw: Mapping[str, Any], label: str) -> Any:
    """Return the value of a key, or of one inside an object (`text_config.hidden_size`); MISSING if absent."""
    outer, _, inner = label.rpartition(".")
    holder = lookup(source, raw, outer) if outer else raw
    if holder is None or holder is MISSING:
        return MISSING
    if not isinstance(holder, Mapping):
        raise ConfigError(source, outer, described(holder), "an object")
    return holder.get(inner, MISSING)


def _filled(key: ConfigKey, given: bool, above: Mapping[str, Any]) -> Any:
    """Return the value of a key that is null (`given`) or absent; None if that is not allowed."""
    formula = key.if_null if given and key.if_null is not None else key.default
    if formula is None:
        return None
    if key.type == "layers":
        return tuple(n for n in _layers(key, above) if formula({**above, "layer": n}))
    value = formula(above)
    return value if key.type in ("int", "float") else bool(value)


def _layers(key: ConfigKey, above: Mapping[str, Any]) -> range:
    """Return the range of layers to which a key applies."""
    assert key.over is not None
    return range(min(key.over(above), MAX_LAYERS))


def _item(key: ConfigKey, value: Any) -> Any:
    """Return the selected item of a list; a plain number stands for every item."""
    several = key.item is not None and isinstance(value, list | tuple) and len(value) > key.item
    return value[key.item] if several else value


def _value(key: ConfigKey, value: Any, above: Mapping[str, Any]) -> Any:
    """Return the value in the form that the formulas use. Raises ValueError for an invalid one."""
    if key.type == "layers":
        return _chosen(key, value, _layers(key, above))
    if key.type == "int" and type(value) is int and key.min <= value <= key.max:
        return value
    if key.type == "float" and type(value) in (int, float) and key.min <= value <= key.max:
        return value
    if key.type in ("bool", "flag") and isinstance(value, bool):
        return value
    words = value.split("|") if isinstance(value, str) else value
    if key.pattern is None or not isinstance(words, list | tuple) or not all(isinstance(w, str) for w in words):
        raise ValueError
    expression = linear(key.pattern)
    return any(expression.fullmatch(word.strip()) for word in words)


def _chosen(key: ConfigKey, value: Any, layers: range) -> tuple[int, ...]:
    """Return the layers that a list names, or whose words match. Raises ValueError."""
    flags = key.pattern is not None and linear(key.pattern).fullmatch("1") is not None
    kind = int if key.pattern is None or flags else str
    if not isinstance(value, list | tuple) or not all(type(v) is kind for v in value):
        raise ValueError
    if key.pattern is None:
        return tuple(n for n in layers if n in value)
    if len(value) < len(layers):
        raise ValueError
    expression = linear(key.pattern)
    return tuple(n for n in layers if expression.fullmatch(str(value[n])))


def _expected(key: ConfigKey) -> str:
    if key.type == "layers":
        return "a list of layers' numbers" if key.pattern is None else "a list with a word for each layer"
    if key.type == "int":
        return f"a whole number from {key.min:,} to {key.max:,}"
    if key.type == "float":
        return f"a number from {key.min:,} to {key.max:,}"
    return "true or false" if key.type == "bool" else "a text or a list of texts"
