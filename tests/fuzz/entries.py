"""Broken and strange entries, drawn from the schema itself."""

from __future__ import annotations

import copy
import random
import re
import types
import typing
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from peftonomy import KnowledgeBase
from peftonomy.formula import Formula
from peftonomy.knowledge.base import Method
from peftonomy.schema.method import MethodEntry
from peftonomy.schema.names import MODEL_NAMES

from .kit import TEXTS, VALUES

__all__ = ["drawn", "reread"]

Keys = tuple[str | int, ...]
NUMBERS = (
    "0",
    "1",
    "2",
    "8",
    "-1",
    "0.5",
    "1.5",
    "99999999999",
    "1e308",
    "10**30",
    "r",
    "numel",
    "d_in",
    "d_out",
    "layer",
)
OPERATORS = ("+", "-", "*", "/", "//", "%", "**", "<", "<=", "==", "!=", "and", "or")
CALLS = ("min({}, {})", "max({}, {})", "sqrt({})", "ceil({})", "log2({})", "abs({})", "factor({}, 2)", "not {}", "-{}",
         "{} if {} else {}", "round({})", "({})")  # fmt: skip
PROSE = ("One plain sentence.", "\\frac{1}{2}", "{" * 100 + "}" * 100, "$x$", "`code` *a* <b>", "a --- b", "\u202eabc")


def drawn(rng: random.Random, kb: KnowledgeBase, method: str) -> dict[str, Any]:
    """Return an entry's data with one to three changes. Its id stays."""
    return changed(rng, kb, MethodEntry, kb[method].document.data)


def changed(rng: random.Random, kb: KnowledgeBase, schema: type[BaseModel], data: dict[str, Any]) -> dict[str, Any]:
    """Return data of a record with one to three changes, drawn from its schema. Its id stays."""
    data = copy.deepcopy(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = list(_places(schema, data, ()))
        keys, annotation = rng.choice(places)
        if keys == ("id",):
            continue
        holder = data
        for key in keys[:-1]:
            holder = holder[key]
        match rng.randrange(10):
            case 0 if isinstance(holder, dict):
                holder.pop(keys[-1], None)
            case 1:
                _put(holder, keys[-1], copy.deepcopy(rng.choice(VALUES)))
            case 2 if isinstance(holder, dict):
                holder[rng.choice(["strange", "a-b", "r", "numel", "lambda", "x" * 50])] = holder.get(keys[-1])
            case _:
                _put(holder, keys[-1], value(rng, annotation, data, kb))
    return data


def _put(holder: Any, key: Any, found: Any) -> None:
    if isinstance(holder, dict) or key < len(holder):
        holder[key] = found
    else:
        holder.append(found)


def _places(annotation: Any, data: Any, keys: Keys) -> Iterator[tuple[Keys, Any]]:
    """Yield every location that the schema allows in the data, with its type; also fields that are absent."""
    if keys:
        yield keys, annotation
    for inner in _options(annotation):
        if _is_record(inner) and isinstance(data, dict):
            for name, field in inner.model_fields.items():
                yield from _places(field.annotation, data.get(field.alias or name), (*keys, field.alias or name))
        origin, arguments = typing.get_origin(inner), typing.get_args(inner)
        if origin is dict and isinstance(data, dict):
            for key, child in data.items():
                yield from _places(arguments[1], child, (*keys, key))
        if origin is list and isinstance(data, list):
            for i, child in enumerate(data):
                yield from _places(arguments[0], child, (*keys, i))


def _options(annotation: Any) -> list[Any]:
    """Return the types of a union; a single type otherwise. Their metadata is dropped."""
    if typing.get_origin(annotation) is typing.Annotated:
        return _options(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [one for argument in typing.get_args(annotation) for one in _options(argument)]
    return [annotation]


def _is_record(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def value(rng: random.Random, annotation: Any, data: dict[str, Any], kb: KnowledgeBase, depth: int = 0) -> Any:
    """Return a value of a type of the schema: plausible, or at the border of the plausible."""
    one = rng.choice(_options(annotation))
    origin, arguments = typing.get_origin(one), typing.get_args(one)
    if one is type(None):
        return None
    if origin is typing.Literal:
        return rng.choice(arguments)
    if one is Formula:
        return formula(rng, data)
    if _is_record(one):
        required = {
            f.alias or n: f for n, f in one.model_fields.items() if f.is_required() or rng.random() < 0.3 / (depth + 1)
        }
        return {name: value(rng, field.annotation, data, kb, depth + 1) for name, field in required.items()}
    if origin is dict:
        keys = [str(word(rng, data, kb)) for _ in range(rng.randrange(3))]
        return {key: value(rng, arguments[1], data, kb, depth + 1) for key in keys}
    if origin is list:
        return [value(rng, arguments[0], data, kb, depth + 1) for _ in range(rng.randrange(4))]
    if one is bool:
        return rng.random() < 0.5
    if one is int:
        return rng.choice((0, 1, 2, 8, 64, 1990, 2024, -1, 10**6, 2**63))
    if one is float:
        return rng.choice((0.0, 0.5, 1.0, -1.0, 1e300, 1e-300))
    return word(rng, data, kb) if one in (str, Any) else formula(rng, data)


def formula(rng: random.Random, data: dict[str, Any], depth: int = 0) -> str:
    """Return a formula over the names of an entry and the model."""
    known = [*data.get("hyperparameters", {})] if isinstance(data.get("hyperparameters"), dict) else []
    atom = rng.choice((*NUMBERS, *map(str, known), *sorted(MODEL_NAMES), rng.choice(("'full'", "exact", "nowhere"))))
    if depth > 2 or rng.random() < 0.35:
        return atom
    one, other = formula(rng, data, depth + 1), formula(rng, data, depth + 1)
    if rng.random() < 0.3:
        return rng.choice(CALLS).format(one, other, atom)
    return f"{one} {rng.choice(OPERATORS)} {other}"


def word(rng: random.Random, data: dict[str, Any], kb: KnowledgeBase) -> str:
    """Return a text that some field of some entry could hold."""
    pools: list[list[str]] = [
        [*kb.methods], [*kb.models], [*kb.taxonomy.categories], [*kb.taxonomy.facets], sorted(kb.references),
        [*kb.libraries],
        ["attn.q", "attn.*", "mlp.*", "*", "encoder:attn.q", "xattn.v", "nowhere"], list(PROSE), list(TEXTS),
        ["zeros", "normal(0.02)", "uniform(1 / sqrt(d_in))", "computed: x", "drawn: x", "normal(1 / 0)",
        "constant(nan)"],
        [*map(str, data.get("tensors", {}) or {})] or ["A"], ["hu2022lora#table-9", "editors", "x#y",
        "hf_peft#src/a.py"],
        ["trained", "stored", "trained / 10**6", "percent", "1 / 0", "not 1", "10 ** 400", "served - trained"],
        ["0.5 %", "4.7M", "1 / 3", "", "about 3", "0", "1e999", "nan M"],
    ]  # fmt: skip
    return rng.choice(rng.choice(pools))


class _Dumper(yaml.CSafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


PLAIN = re.compile(r"[-+]?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?\Z")


def _text(dumper: _Dumper, text: str) -> yaml.Node:
    """Quote each text, so that it is read as text again. The library writes no half of a character."""
    text = text.encode("utf-8", "replace").decode()
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"')


def _float(dumper: _Dumper, number: float) -> yaml.Node:
    shown = repr(number)
    if "e" in shown and "." not in shown:
        shown = shown.replace("e", ".0e")
    return dumper.represent_scalar("tag:yaml.org,2002:float", shown)


_Dumper.add_representer(str, _text)
_Dumper.add_representer(float, _float)


def written(data: dict[str, Any]) -> bytes:
    """Return an entry as YAML."""
    return yaml.dump(data, Dumper=_Dumper, allow_unicode=True, sort_keys=False, width=10**6).encode(
        "utf-8", "surrogatepass"
    )


def reread(kb: KnowledgeBase, tree: Path, method: str, content: bytes) -> KnowledgeBase:
    """Return the knowledge base with another content of one entry. `tree` links to everything else."""
    folder = tree / "methods"
    if not folder.is_dir():
        folder.mkdir(parents=True)
        for path in sorted(kb.root.iterdir()):
            if path.name in ("taxonomy", "backbones", "reference_impls", "golden", "site", "evidence", "studies"):
                (tree / path.name).symlink_to(path)
        for path in kb.methods.folder.glob("*.yaml"):
            (folder / path.name).symlink_to(path)
    path = folder / f"{method}.yaml"
    path.unlink()
    path.write_bytes(content)
    found = KnowledgeBase(tree)
    found.families, found.models = kb.families, kb.models
    found.libraries, found.trainers, found.engines = kb.libraries, kb.trainers, kb.engines
    found.__dict__["references"] = kb.references
    found.__dict__["taxonomy"] = replace(kb.taxonomy, lists={})  # a page counts all methods for each list
    for name in ("gpus", "combinations", "unmerged", "studies", "evidence", "results"):
        found.__dict__[name] = getattr(kb, name)
    found.memo["traits"] = {key: one for key, one in kb.memo.get("traits", {}).items() if key != method}
    found.methods.held = {key: Method(found, kb[key].entry, kb[key].document) for key in kb if key != method}
    return found


def restore(kb: KnowledgeBase, tree: Path, method: str) -> None:
    """Put the entry of the checkout back."""
    path = tree / "methods" / f"{method}.yaml"
    path.unlink()
    path.symlink_to(kb.methods.path(method))
