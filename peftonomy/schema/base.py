"""Types for every record of the schema, and a function that reads a file as a record."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    WithJsonSchema,
)

from ..errors import DataError, FormulaError, Problem, described, near
from ..files.documents import Document, dotted
from ..formula import Formula
from .described import Described
from .initial import Start
from .programs import parse_all

__all__ = [
    "JS_RESERVED",
    "Argument",
    "Category",
    "Citation",
    "Entry",
    "FormulaField",
    "Functions",
    "Id",
    "Line",
    "Name",
    "Prose",
    "Role",
    "Scope",
    "Stem",
    "Value",
    "validated",
]  # fmt: skip


def formula_from(value: Any) -> Formula:
    if isinstance(value, Formula):
        return value
    if not isinstance(value, str | int | float):
        raise ValueError("a formula in quotes, or a number, was expected")
    try:
        return Formula.parse(value)
    except FormulaError as error:
        raise ValueError(f"column {error.column}: {error.message}") from None


def start_from(text: str) -> str:
    Start.parse(text)
    return text


FormulaField = Annotated[
    Formula,
    BeforeValidator(formula_from),
    PlainSerializer(lambda f: f.source if f.literal is None else f.literal, when_used="json-unless-none"),
    WithJsonSchema({"type": ["string", "number"], "description": "a formula in quotes, or a number"}),
]
Id = Annotated[str, Field(pattern=r"^[a-z][a-z0-9]*(_[a-z0-9]+)*$", max_length=60)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$", max_length=40)]
Argument = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*(\.[A-Za-z][A-Za-z0-9_]*)*$", max_length=80)]
"""A library's argument. Dots name an argument inside another argument's value: `use_bdlora.nblocks`."""
Citation = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*(#\S.*)?$", max_length=200)]
"""`bibkey`, `bibkey#locator`, or `editors` (our own judgement, shown as such)."""
Role = Annotated[str, Field(pattern=r"^([a-z_]+:)?[a-z_]+(\.[a-z_*]+)*$|^([a-z_]+:)?\*$", max_length=60)]
"""A role such as `attn.q`, or a pattern such as `mlp.*`. A stack may precede it: `decoder:xattn.v`."""
Prose = Annotated[str, Field(min_length=1, max_length=6000)]
Line = Annotated[str, Field(min_length=1, max_length=400, pattern=r"^[^\n]+$")]
Stem = Annotated[str, Field(min_length=1, max_length=80, pattern=r"^[^\n]+$")]
Category = Annotated[str, Field(pattern=r"^[a-z_]+(\.[a-z_]+)*$", max_length=120)]
Value = bool | int | float | str
Scope = Literal["site", "role", "attention", "mlp", "layer", "model", "weight", "bias", "norm"]
JS_RESERVED = frozenset(
    """abstract arguments boolean byte case catch char const debugger default delete do double enum eval export extends
    false final float function goto implements instanceof int interface let long native new null package private
    protected public short static super switch synchronized this throw throws transient true typeof var void volatile
    fdiv mod pow""".split()  # noqa: SIM905 (a list of words is read as words)
)
"""Names that a formula compiled to JavaScript cannot use."""


class Entry(Described):
    """Base of all records: closed (an unknown field is an error), strict (no silent conversion) and frozen."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, arbitrary_types_allowed=True,
        defer_build=True,  # a query reads few of the records, so the other validators are never built
    )  # fmt: skip


def _functions(texts: dict[str, str]) -> dict[str, str]:
    parse_all(texts)
    return texts


Functions = Annotated[dict[str, str], AfterValidator(_functions)]
"""Functions in the language of operations: the text of each by its head."""
T = TypeVar("T", bound=BaseModel)


def validated(model: type[T], document: Document) -> T:
    """Return the document as a record of type `model`. Raises DataError with every problem and its line."""
    try:
        return model.model_validate(document.data)
    except ValidationError as error:
        problems = {_problem(model, document, dict(e)) for e in error.errors()}
        raise DataError(sorted(problems)) from None


def _problem(model: type[BaseModel], document: Document, error: dict[str, Any]) -> Problem:
    kind, keys = error["type"], tuple(error["loc"])
    keys = _real(document.data, keys)
    line, where = document.line(keys), dotted(keys)
    if kind == "extra_forbidden":
        known = _fields(model, keys[:-1])
        matches = near(str(keys[-1]), known)
        hint = f"did you mean {' or '.join(matches)}?" if matches else ""
        expected = "one of " + ", ".join(sorted(known)) if known else "no such field"
        return Problem(document.path, line, where, "an unknown field", expected, hint, "schema")
    if kind == "missing":
        return Problem(document.path, line, where, "nothing", "this field", "", "schema")
    found = described(error["input"])
    message = re.sub(r"^Value error, ", "", error["msg"])
    message = re.sub(r"^(Input|String|List|Dictionary) should (be )?", "", message)
    message = re.sub(r"^a valid dictionary( or instance of \w+)?", "a mapping", message)
    return Problem(document.path, line, where, found, message, "", "schema")


def _real(data: Any, keys: tuple[Any, ...]) -> tuple[str | int, ...]:
    """Return the part of a pydantic location that exists in the document.

    Pydantic also names union branches and types.
    """
    kept: list[str | int] = []
    for i, key in enumerate(keys):
        if isinstance(data, dict) and (key in data or i == len(keys) - 1):
            data = data.get(key)
        elif isinstance(data, list) and isinstance(key, int) and key < len(data):
            data = data[key]
        else:
            continue
        kept.append(key)
    return tuple(kept)


def _fields(model: type[BaseModel], keys: tuple[str | int, ...]) -> list[str]:
    """Return the field names of a record at `keys` below `model`."""
    for key in keys:
        if isinstance(key, int):
            continue
        fields = {f.alias or n: f for n, f in model.model_fields.items()}
        if key in fields:
            inner = list(_models(fields[str(key)].annotation))
            if inner:
                model = inner[0]
    return [f.alias or n for n, f in model.model_fields.items()]


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _models(inner)
