"""The table of an entry's fields, from the JSON Schema that the records generate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..schema.method import MethodEntry

__all__ = ["table"]

WORDS = {"string": "text", "integer": "whole number", "boolean": "true or false"}


def table() -> Iterator[dict[str, Any]]:
    """Yield every record with its fields: name, type in words, whether it is required, meaning."""
    schema = MethodEntry.model_json_schema()
    records = {"Method entry": schema | {"description": ""}, **schema["$defs"]}
    for name, body in records.items():
        if "properties" in body:
            needed = body.get("required", [])
            rows = [
                {"name": n, "type": _type(spec), "required": n in needed, "doc": spec.get("description", "")}
                for n, spec in body["properties"].items()
            ]
            yield {"name": name, "doc": body.get("description", ""), "fields": rows}


def _type(spec: Mapping[str, Any]) -> str:
    """Return a JSON Schema type in a few words."""
    if "$ref" in spec:
        return str(spec["$ref"]).rpartition("/")[2]
    if "anyOf" in spec:
        return " or ".join(dict.fromkeys(t for s in spec["anyOf"] if (t := _type(s)) != "null"))
    if "enum" in spec or "const" in spec:
        return " | ".join(map(str, spec.get("enum", [spec.get("const")])))
    kind = spec.get("type", "")
    if kind == "array":
        return f"list of {_type(spec.get('items', {})) or 'anything'}"
    if kind == "object":
        inner = spec.get("additionalProperties")
        return f"name: {_type(inner)}" if isinstance(inner, dict) else "mapping"
    return "formula" if isinstance(kind, list) else WORDS.get(kind, str(kind))
