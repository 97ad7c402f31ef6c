"""Describe the fields of records by the texts below them in the source, which is read when a schema is wanted.

pydantic's own `use_attribute_docstrings` reads the source of every record when it is imported.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator
from functools import cache
from itertools import pairwise

from pydantic import BaseModel, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

__all__ = ["Described", "description"]


class Described(BaseModel):
    """Base of records whose JSON Schemas describe each field."""

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core_schema)
        properties = handler.resolve_ref_schema(schema).get("properties", {})
        for name, field in cls.model_fields.items():
            if text := description(cls, name):
                found = properties[field.alias or name]
                found.pop("description", None)  # that of the type
                properties[field.alias or name] = {"description": text, **found}
        return schema


def description(model: type[BaseModel], name: str) -> str | None:
    """Return the description of a field: the text below it in the class that declares it."""
    owner = next(base for base in model.__mro__ if name in inspect.get_annotations(base))
    return _texts(owner.__module__).get((owner.__qualname__, name))


@cache
def _texts(module: str) -> dict[tuple[str, str], str]:
    """Return the text below each annotated name of each class of a module."""
    return dict(_below(ast.parse(inspect.getsource(sys.modules[module])), ""))


def _below(holder: ast.Module | ast.ClassDef, prefix: str) -> Iterator[tuple[tuple[str, str], str]]:
    for node, after in pairwise([*holder.body, ast.Pass()]):
        if isinstance(node, ast.ClassDef):
            yield from _below(node, f"{prefix}{node.name}.")
        elif (
            isinstance(node, ast.AnnAssign)
            and isinstance(node.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
            and isinstance(after.value.value, str)
        ):
            yield (prefix.rstrip("."), node.target.id), inspect.cleandoc(after.value.value)
