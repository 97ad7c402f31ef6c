"""The data for the site's tools: methods, families and models as records, formulas as JavaScript functions.

The result is one classic script that sets one global, so it works from a file and under a policy without eval. The
engine that reads it (`site/scripts/engine.js`) mirrors `backbones` and `costs`, so that users can paste a config.json
into a page. Tests compare the two over the whole grid.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..backbones.backbone import KNOWN_TYPES, MAX_LABELS, Backbone
from ..backbones.config import MAX_BYTES, MAX_LAYERS
from ..costs.layout import Part
from ..formula import Formula
from ..knowledge import size as _size
from ..knowledge.base import Method
from ..knowledge.query import facts
from ..libraries.reading import DEFAULT
from ..memory import setting as _setting
from ..memory.ranks import PACKED
from ..memory.sharding import MOST_GPUS, NOT_COVERED, OPTIONS, REDUCED, RUN, SHARD, STORAGE, RankMemory
from ..schema.base import Value
from ..schema.combines import Combines, Pass
from ..schema.family import (
    ConfigKey,
    Conv,
    Embedding,
    Family,
    Linear,
    ModuleSpec,
    Norm,
    Parameter,
    Stack,
)  # fmt: skip
from ..schema.implementations import Implementation
from ..schema.memory import Act, Update
from ..schema.method import MethodEntry
from ..schema.names import BY_TEXTS, LABELLED, TASKS
from ..schema.tensors import Hyperparameter, Moved, Tensor
from ._site import Site

__all__ = ["SCRIPTS", "Formulas", "assigned", "filled", "placed", "script", "unless"]

NUMBERS = ("int", "float")
SCRIPTS = ("program", "tape", "machine", "caller", "step", "ranks", "programs", "memory")
"""The scripts in `assets` that a page loads, in order, when it first shows memory. They mirror `peftonomy.memory`;
`programs` is data (see `_operations`)."""


def script(site: Site) -> str:
    """Return the text of `assets/data.js`."""
    kb, formulas = site.kb, Formulas()
    records: dict[str, Any] = {
        "tasks": {"names": TASKS, "labelled": LABELLED, "by_texts": BY_TEXTS, "types": _task_types(site)},
        "limits": {"bytes": MAX_BYTES, "layers": MAX_LAYERS, "labels": MAX_LABELS, "types": KNOWN_TYPES},
        "methods": {m: _method(site, kb[m], formulas) for m in kb},
        "families": {k: _family(f, formulas) for k, f in kb.families.items()},
        "models": {k: _model(kb.models[k]) for k in kb.models},
        "training": _training(), "scripts": SCRIPTS,
        "libraries": _libraries(site),
        "facets": {k: f.name for k, f in kb.taxonomy.facets.items()},
        "categories": {k: c.name for k, c in kb.taxonomy.categories.items()},
    }
    return assigned("peft.load", records, formulas)


def assigned(loader: str, records: Mapping[str, Any], formulas: Formulas) -> str:
    """A script that gives records and formulas to a function of the engine."""
    text = json.dumps(records, ensure_ascii=False, separators=(",", ":"))
    # A closing tag inside a string could end the script element of a page that inlines this file.
    text = text.replace("</", "<\\/")
    return f'"use strict";\n{loader}(Object.assign({text}, {{ formulas: [\n{formulas.javascript()}\n] }}));\n'


class Formulas:
    """Distinct formulas, each identified by its number."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def add(self, formula: Formula | None) -> int | None:
        """Return the formula's number; None for None."""
        if formula is None:
            return None
        names = ", ".join(sorted(formula.names))
        return self.function(f"function ({{ {names} }}) {{ return {formula.javascript()}; }}")

    def function(self, text: str) -> int:
        """Return the number of a function of any other kind."""
        return self._numbers.setdefault(text, len(self._numbers))

    def each(self, formulas: Iterable[Formula]) -> list[int | None]:
        """Return the numbers of several formulas."""
        return [self.add(f) for f in formulas]

    def javascript(self) -> str:
        """Return the functions in order, each with an object of names as its argument."""
        return ",\n".join(self._numbers)


def filled(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record without empty fields; the engine's default for an absent field is nothing, false or one."""
    return {k: v for k, v in record.items() if v is not None and v is not False and v != [] and v != {} and v != ""}


# Methods.


def _method(site: Site, method: Method, formulas: Formulas) -> dict[str, Any]:
    entry = method.entry
    known, size = facts(method), _size.hyperparameter(method, site.examples)
    parts = method.parts
    names = _size.names(parts, size)
    return {
        "name": entry.name, "year": entry.year, "category": entry.category, "hue": site.hue(entry.category),
        "summary": entry.summary, "merge": method.merge, "identity": entry.properties.identity_at_init,
        "positions": formulas.add(entry.properties.inference_positions), "quantised": known["quantised"],
        "facets": entry.facets, "size": size or None,
        "use": site.use[method.id],
        "told": site.libraries(method),
        "libraries": {
            key: _library(site, key, found, formulas) for key, found in entry.implementations.items()
        },
        "parts": [_part(part, name, formulas) for part, name in zip(parts, names, strict=True)],
        **({"head_alone": True} if entry.properties.head_alone else {}),
        **({} if entry.combines is None else {"combines": _combines(site, entry.combines, formulas)}),
    }  # fmt: skip


def _combines(site: Site, combines: Combines, formulas: Formulas) -> dict[str, Any]:
    inner = site.kb[combines.method].entry
    return {
        "method": combines.method, "rename": combines.rename, "inputs": formulas.add(combines.inputs),
        "set": {n: _fixed(inner, n, v, formulas) for n, v in combines.set.items()}, "sum": combines.sum,
        "passes": [
            placed(one, (one.temporary, one.together), formulas)
            | {"temporary": formulas.add(one.temporary), "together": formulas.add(one.together)}
            for one in combines.passes
        ],
    }  # fmt: skip


def placed(record: Act | Update | Pass, sizes: Sequence[Formula], formulas: Formulas) -> dict[str, Any]:
    """Laid out like a tensor. layered: whether only its condition names the layer."""
    by_layer = [f for f in (record.if_, *sizes) if f is not None and "layer" in f.names]
    return {
        "per": record.per, "roles": record.roles, "by_layer": bool(by_layer), "layered": by_layer == [record.if_],
        "guard": formulas.add(record.if_),
    }  # fmt: skip


def _library(site: Site, key: str, found: Implementation, formulas: Formulas) -> dict[str, Any]:
    """Return the data for a library's configuration of the method.

    aimed: whether it takes target modules. counted: lists of which only the length is known. loud: words in capitals.
    """
    library = site.kb.libraries.get(key)
    defaults = library.defaults(found.type) if library is not None and found.type else {}
    return {
        "symbol": found.symbol, "type": found.type, "rename": found.rename, "set": found.set,
        "write": {name: formulas.add(formula) for name, formula in found.write.items()},
        "aimed": library is None or not found.type or bool(library.types[found.type].accepts),
        "counted": library.counted if library is not None else [],
        "files": library.files if library is not None else [],
        "loud": [name for name, default in defaults.items() if isinstance(default, str) and default.isupper()],
    }  # fmt: skip


def _part(part: Part, size: str, formulas: Formulas) -> dict[str, Any]:
    entry = part.entry
    bounds = _size.bounds(entry, size)
    # If a value is computed from the includer's, any of its conditions may depend on the size.
    sized = {size} | ({*entry.hyperparameters} if any(isinstance(v, str) for v in part.fixed.values()) else set())
    return {
        "name": entry.name,
        "prefix": part.prefix,
        "parent": part.parent,
        "rename": dict(part.rename),
        "fixed": {n: _fixed(entry, n, v, formulas) for n, v in part.fixed.items()},
        "hyperparameters": [
            _hyperparameter(n, h, formulas) | {"sized": h.domain is not None and not sized.isdisjoint(h.domain.names)}
            for n, h in entry.hyperparameters.items()
        ],
        "targets": None if (t := entry.targets) is None else {"default": t.default, "allowed": t.allowed},
        "tensors": [
            _tensor(n, t, formulas)
            | {"bounds": formulas.each(bounds.get(n, []))}
            | {"sized": any(f is not None and not sized.isdisjoint(f.names) for f in (t.requires, t.if_))}
            for n, t in entry.tensors.items()
        ],
        "bounds": formulas.each(bounds.get("", [])),
        "base": [{"roles": b.roles, "count": formulas.add(b.count), "bits": b.bits}
                 for b in entry.base_storage.values()],
    }  # fmt: skip


def _fixed(entry: MethodEntry, name: str, value: Value, formulas: Formulas) -> dict[str, Any]:
    """Return a value that an including entry sets: a formula if the hyperparameter is a number given as text."""
    computed = entry.hyperparameters[name].type in ("int", "float") and isinstance(value, str)
    return {"value": value, "formula": formulas.add(Formula.parse(value)) if computed else None}


def _hyperparameter(name: str, spec: Hyperparameter, formulas: Formulas) -> dict[str, Any]:
    computed = spec.type in ("int", "float") and isinstance(spec.default, str)
    return {
        "name": name, "type": spec.type, "default": spec.default, "values": spec.values, "meaning": spec.meaning,
        "formula": formulas.add(Formula.parse(spec.default)) if computed else None,
        "domain": formulas.add(spec.domain), "rule": spec.domain.source if spec.domain else "",
    }  # fmt: skip


def _tensor(name: str, tensor: Tensor, formulas: Formulas) -> dict[str, Any]:
    trained: bool | int | None = True
    if isinstance(tensor.trained, bool):
        trained = tensor.trained
    elif isinstance(tensor.trained, Formula):
        trained = formulas.add(tensor.trained)
    return {
        "name": name, "per": tensor.per, "selecting": tensor.selecting, "roles": tensor.roles,
        "by_layer": any("layer" in f.names for _, f in tensor.formulas()),
        "guard": formulas.add(tensor.if_),
        "requires": formulas.add(tensor.requires), "rule": tensor.requires.source if tensor.requires else "",
        "shape": None if tensor.shape is None else formulas.each(tensor.shape),
        "count": formulas.add(tensor.count),
        "copies": None if tensor.copies.literal == 1 else formulas.add(tensor.copies),
        "trained": trained, "moved": formulas.add(tensor.trained.across) if isinstance(tensor.trained, Moved) else None,
        "stored": [
            {"as": s.as_, "count": formulas.add(s.count), "across": formulas.add(s.across)}
            for s in tensor.stored if s.as_ not in ("none", "seed")
        ],
        "served": tensor.served,
    }  # fmt: skip


# Memory of a training step.


def _training() -> dict[str, Any]:
    """Return the settings of a training step, and the constants of its memory estimate."""
    setting = {f.name: f.default for f in dataclasses.fields(_setting.Setting) if f.default is not dataclasses.MISSING}
    del setting["seq"]      # the pages have a field for it, as for the batch
    constants = ("TOKEN_BYTES", "LABEL_BYTES", "BLOCK", "STATE_BLOCK", "CONTEXT", "WORKSPACE", "FRAGMENTATION")
    return {
        "setting": setting, "parts": _setting.PARTS, "attention": _setting.ATTENTION, "dtypes": _setting.DTYPES,
        "optimizers": {name: dataclasses.asdict(o) for name, o in _setting.OPTIMIZERS.items()},
        "quantized": _setting.QUANTIZED, "most": _setting.MAX_TOKENS,
        **{name: getattr(_setting, name) for name in constants},
        "sharding": {
            "kinds": list(SHARD), "options": OPTIONS, "reduced": REDUCED, "storage": list(STORAGE),
            "most": MOST_GPUS, "run": RUN, "packed": PACKED, "parts": RankMemory.parts, "not_covered": NOT_COVERED,
        },
    }  # fmt: skip


def _libraries(site: Site) -> dict[str, str]:
    """Return the libraries that any entry names, by their usual names."""
    keys = dict.fromkeys(key for m in site.kb.values() for key in m.entry.implementations)
    return {key: site.library(key) for key in sorted(keys)}


def _task_types(site: Site) -> list[dict[str, Any]]:
    """Return the tasks of the library whose configurations the calculator writes, in its order."""
    tasks = site.kb.libraries[DEFAULT].tasks
    return [{"type": name, "task": task.task, "kind": task.kind} for name, task in tasks.items()]


# Models.


def _model(model: Backbone) -> dict[str, Any]:
    assert model.file is not None
    return {
        "name": model.name, "config": {"model_type": model.family.model_type, **model.file.config},
        **({"hub": model.file.checkpoint} if model.file.checkpoint else {}),
    }  # fmt: skip


def _family(family: Family, formulas: Formulas) -> dict[str, Any]:
    return {
        "name": family.name, "kind": family.kind, "default_task": family.default_task,
        "expert_names": family.expert_names,
        "tasks": {name: task.prefix for name, task in family.tasks.items()},
        "earlier": {str(task.like): name for name, task in family.tasks.items() if task.like},
        "only": {name: task.labels for name, task in family.tasks.items() if task.labels},
        "config": [_key(name, key, formulas) for name, key in family.config.items()],
        "requires": [
            {"formula": formulas.add(f), "names": sorted(f.names), "source": f.source} for f in family.requires
        ],
        "dims": {name: formulas.add(f) for name, f in family.dims.items()},
        "modules": [_spec(spec, formulas) for spec in family.modules],
        "stacks": {name: _stack(stack, formulas) for name, stack in family.stacks.items()},
    }  # fmt: skip


def _key(name: str, key: ConfigKey, formulas: Formulas) -> dict[str, Any]:
    return filled({
        "name": name, "key": key.key, "aliases": key.aliases, "type": key.type, "item": key.item,
        "pattern": None if key.pattern is None else _pattern(key.pattern),
        "over": formulas.add(key.over), "default": formulas.add(key.default), "if_null": formulas.add(key.if_null),
        "min": key.min if key.type in NUMBERS else None, "max": key.max if key.type in NUMBERS else None,
    })  # fmt: skip


def _pattern(pattern: str) -> list[str]:
    """Return a regular expression and its flags for JavaScript.

    A leading flag is moved, because older browsers lack it.
    """
    match = re.fullmatch(r"\(\?i:(.*)\)", pattern)
    return [f"^(?:{match[1] if match else pattern})$", "i" if match else ""]


def _stack(stack: Stack, formulas: Formulas) -> dict[str, Any]:
    return {
        "layers": formulas.add(stack.layers), "keys": sorted(stack.layers.names), "path": stack.path,
        "attention": stack.attention, "mlp": stack.mlp.out, "tasks": stack.tasks,
        "modules": [_spec(spec, formulas) for spec in stack.modules],
        "dims": {name: formulas.add(f) for name, f in stack.dims.items()},
    }  # fmt: skip


def _spec(spec: ModuleSpec, formulas: Formulas) -> dict[str, Any]:
    record: dict[str, Any] = {
        "kind": spec.kind, "path": spec.module_path, "role": spec.role, "tasks": spec.tasks, "outside": spec.outside,
        "new": spec.new, "absent": not spec.pretrained, "when": unless(spec.when, 1, formulas),
        "where": formulas.add(spec.where), "tied": spec.tied_to is not None and formulas.add(spec.tied_when),
        "ties": spec.ties,
    }  # fmt: skip
    if isinstance(spec, Linear | Conv):
        record |= {"in": formulas.add(spec.in_), "out": formulas.add(spec.out), "bias": unless(spec.bias, 0, formulas)}
    if isinstance(spec, Linear):
        record |= {"slices": [[role, formulas.add(size)] for role, size in spec.slices.items()]}
        record |= {"groups": unless(spec.groups, 1, formulas)}
    if isinstance(spec, Conv):
        record |= {"kernel": formulas.each(spec.kernel), "groups": formulas.add(spec.groups)}
    if isinstance(spec, Norm):
        record |= {"size": formulas.add(spec.size), "heads": formulas.add(spec.heads)}
        record |= {"bias": unless(spec.bias, 0, formulas)}
    if isinstance(spec, Embedding | Parameter):
        record |= {"shape": formulas.each(spec.shape)}
    if isinstance(spec, Parameter):
        record |= {"suffix": spec.path.rpartition(".")[2]}
    return filled(record)


def unless(formula: Formula, literal: int, formulas: Formulas) -> int | None:
    """Return the formula's number, or None if it equals the default of an absent field."""
    return None if formula.literal == literal else formulas.add(formula)
