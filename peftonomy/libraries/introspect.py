"""Print the configuration classes of an installed library as JSON. It runs in the library's own environment.

    python introspect.py '{"package": "peft", "module": "peft.mapping", "mapping": "PEFT_TYPE_TO_CONFIG_MAPPING"}'

It uses only the standard library, because that environment need not have this package. `schema.library.Introspection`
documents the request.
"""

from __future__ import annotations

import dataclasses
import enum
import importlib
import importlib.metadata
import json
import sys
import typing
from collections.abc import Mapping
from typing import Any


def described(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the version, the types with their fields and defaults, and the short names of configurations."""
    module = importlib.import_module(request["module"])
    found = dict(classes(module, request))
    short = getattr(module, request["shorthands"]) if request.get("shorthands") else {}
    return {
        "version": importlib.metadata.version(request["package"]),
        "types": {name: one(kind, request.get("saved")) for name, kind in found.items()},
        "shorthands": {name: configured(config) for name, config in short.items()},
    }


def classes(module: Any, request: Mapping[str, Any]) -> Any:
    """Yield the name and class of every type: from a mapping, or all dataclasses derived from a base class."""
    if request.get("mapping"):
        for name, kind in getattr(module, request["mapping"]).items():
            yield str(getattr(name, "value", name)), kind
        return
    base = getattr(module, request["base"])
    for name, kind in vars(module).items():
        derived = isinstance(kind, type) and issubclass(kind, base) and name not in request.get("abstract", ())
        if derived and dataclasses.is_dataclass(kind):
            yield name, kind


def one(kind: Any, saved: str | None) -> dict[str, Any]:
    """Return the record of one configuration class. saved: the name of its constant that a saved file has."""
    fields = [f for f in dataclasses.fields(kind) if f.init and f.name != saved]
    hints = typing.get_type_hints(kind)
    return {
        "symbol": kind.__name__,
        "saved": getattr(kind, saved) if saved else None,
        "arguments": {field.name: plain(default(field)) for field in fields},
        "nullable": [f.name for f in fields if type(None) in typing.get_args(hints[f.name]) and default(f) is not None],
    }


def default(field: Any) -> Any:
    """Return the default of a field; None if it has none."""
    if field.default is not dataclasses.MISSING:
        return field.default
    return None if field.default_factory is dataclasses.MISSING else field.default_factory()


def plain(value: Any) -> Any:
    """Return a default as a saved configuration has it; objects for use at run time are not saved."""
    if isinstance(value, enum.Enum):
        return value.value
    return None if dataclasses.is_dataclass(value) else value


def configured(config: Any) -> Any:
    """Return a configuration's class and values; those of its parts if it is a union."""
    if hasattr(config, "configs"):
        return [configured(part) for part in config.configs]
    return {
        "type": type(config).__name__,
        "values": {f.name: plain(getattr(config, f.name)) for f in dataclasses.fields(config)},
    }


if __name__ == "__main__":
    print(json.dumps(described(json.loads(sys.argv[1]))))
