"""The calculator's data: methods and models as records, their formulas as JavaScript functions.

One classic script results that sets one global, so it works from a file and under a policy without eval. The engine
that reads it (`site/assets/engine.js`) mirrors `peftonomy._plan.Plan`; a test compares them over the whole grid.
"""

from __future__ import annotations

import contextlib
import json
from typing import Any

from .._backbone import Backbone, Inventory, Module, SiteGroup
from .._errors import UsageError
from .._formula import Formula
from .._kb import KnowledgeBase, Method
from .._layout import flattened
from .._schema import Hyperparameter, MethodEntry, Moved, Targets, Tensor, Value

__all__ = ["script"]


def script(kb: KnowledgeBase) -> str:
    """The text of `assets/data.js`."""
    formulas = Formulas()
    methods = {m: _method(kb[m], formulas) for m in kb}
    patterns = {p for m in kb for t in _targets(kb[m]) for p in t.default}
    models = {m: _model(kb.models[m], patterns) for m in kb.models}
    records = json.dumps({"methods": methods, "models": models}, ensure_ascii=False, separators=(",", ":"))
    # A closing tag inside a string could end the script element of a page that inlines this.
    records = records.replace("</", "<\\/")
    return f'"use strict";\npeft.load(Object.assign({records}, {{ formulas: [\n{formulas.javascript()}\n] }}));\n'


class Formulas:
    """Distinct formulas, each referred to by its number."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._functions: list[str] = []

    def add(self, formula: Formula | None) -> int | None:
        """The formula's number; nothing for no formula."""
        if formula is None:
            return None
        if formula.source not in self._numbers:
            self._numbers[formula.source] = len(self._functions)
            names = ", ".join(sorted(formula.names))
            self._functions.append(f"function ({{ {names} }}) {{ return {formula.javascript()}; }}")
        return self._numbers[formula.source]

    def javascript(self) -> str:
        """The functions in order, each taking an object of names."""
        return ",\n".join(self._functions)


def _targets(method: Method) -> list[Targets]:
    return [p.entry.targets for p in flattened(method) if p.entry.targets is not None]


def _method(method: Method, formulas: Formulas) -> dict[str, Any]:
    entry = method.entry
    parts = [
        {
            "prefix": part.prefix,
            "parent": part.parent,
            "rename": dict(part.rename),
            "fixed": {n: _fixed(part.entry, n, v, formulas) for n, v in part.fixed.items()},
            "hyperparameters": [_hyperparameter(n, h, formulas) for n, h in part.entry.hyperparameters.items()],
            "targets": None if (t := part.entry.targets) is None else {"default": t.default, "allowed": t.allowed},
            "tensors": [_tensor(n, t, formulas) for n, t in part.entry.tensors.items()],
            "base": [
                {"roles": b.roles, "count": formulas.add(b.count), "bits": b.bits}
                for b in part.entry.base_storage.values()
            ],
        }
        for part in flattened(method)
    ]
    return {"name": entry.name, "category": entry.category, "parts": parts}


def _fixed(entry: MethodEntry, name: str, value: Value, formulas: Formulas) -> dict[str, Any]:
    """A value that an including entry sets: a formula where the hyperparameter is a number given as text."""
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
    guards = [f for f in (tensor.when, tensor.where) if f is not None]
    guard = Formula.parse(" and ".join(f"({f.source})" for f in guards)) if guards else None
    trained: bool | int | None = True
    if isinstance(tensor.trained, bool):
        trained = tensor.trained
    elif isinstance(tensor.trained, Formula):
        trained = formulas.add(tensor.trained)
    return {
        "name": name, "per": tensor.per, "selecting": tensor.selecting, "roles": tensor.roles,
        "by_layer": any("layer" in f.names for _, f in tensor.formulas()),
        "guard": formulas.add(guard),
        "requires": formulas.add(tensor.requires), "rule": tensor.requires.source if tensor.requires else "",
        "shape": None if tensor.shape is None else [formulas.add(size) for size in tensor.shape],
        "count": formulas.add(tensor.count),
        "copies": None if tensor.copies.literal == 1 else formulas.add(tensor.copies),
        "trained": trained, "moved": formulas.add(tensor.trained.across) if isinstance(tensor.trained, Moved) else None,
        "stored": [
            {"as": s.as_, "count": formulas.add(s.count), "across": formulas.add(s.across)}
            for s in tensor.stored if s.as_ not in ("none", "seed")
        ],
        "served": tensor.served,
    }  # fmt: skip


def _model(model: Backbone, patterns: set[str]) -> dict[str, Any]:
    inventories = [model.inventory(task) for task in model.tasks]
    selectors = [_selector(inventory, patterns) for inventory in inventories]
    distinct = [s for i, s in enumerate(selectors) if s not in selectors[:i]]
    return {
        "name": model.name, "family": model.family.name, "kind": model.family.kind,
        "backbone": model.parameters, "default_task": model.default_task, "tasks": list(model.tasks),
        "dims": [inventory.dims for inventory in inventories],
        "head": [_head(model, task) for task in model.tasks],
        **_modules(inventories),
        "blocks": [
            {"kind": b.kind, "name": b.name, "stack": b.stack, "dims": dict(b.dims), **_layers(b.layers)}
            for b in inventories[0].blocks
        ],
        "selectors": distinct, "selector_of": [distinct.index(s) for s in selectors],
    }  # fmt: skip


def _head(model: Backbone, task: str) -> list[int]:
    """A new task head's parameters as `base + slope * num_labels`."""
    at = {n: model.inventory(task, n).head for n in (2, 3, 7)}
    slope = at[3] - at[2]
    if at[7] - at[2] != 5 * slope:
        raise ValueError(f"the head of {model.id} is not linear in the number of labels")
    return [at[2] - 2 * slope, slope]


def _modules(inventories: list[Inventory]) -> dict[str, Any]:
    """The distinct modules of all tasks, and for each task their numbers in the network's order."""
    numbers: dict[str, int] = {}
    orders = [[numbers.setdefault(json.dumps(_module(m)), len(numbers)) for m in i.modules] for i in inventories]
    return {"modules": [json.loads(record) for record in numbers], "modules_of": orders}


def _module(module: Module) -> dict[str, Any]:
    return {
        "role": module.role, "stack": module.stack, "kind": module.kind, "head": module.head,
        "pretrained": module.pretrained,
        "parameters": [[suffix, list(shape)] for suffix, shape in module.parameters], **_layers(module.layers),
    }  # fmt: skip


def _layers(layers: tuple[int, ...]) -> dict[str, Any]:
    """How many layers, and which: null for none, [start, stop) for a run, the list itself otherwise."""
    if not layers:
        return {"n": 1, "layers": None}
    run = layers == tuple(range(layers[0], layers[-1] + 1))
    return {"n": len(layers), "layers": [layers[0], layers[-1] + 1] if run else {"at": list(layers)}}


def _selector(inventory: Inventory, patterns: set[str]) -> dict[str, Any]:
    """Every linear site of a task in the network's order, and for each role and pattern in use the sites it names."""
    found: dict[str, list[SiteGroup]] = {}
    for pattern in [*inventory.roles(), *sorted(patterns.difference(inventory.roles()))]:
        with contextlib.suppress(UsageError):  # a pattern that this model has nothing for
            found[pattern] = inventory.resolve_roles([pattern])
    modules = {m.path: i for i, m in enumerate(inventory.modules)}
    every = {site for group in found.values() for site in group}
    sites = sorted(every, key=lambda s: (modules[s.module.path], not s.whole, s.start))
    numbers = {site: i for i, site in enumerate(sites)}
    return {
        "sites": [_site(site, modules[site.module.path]) for site in sites],
        "resolve": {pattern: [numbers[site] for site in group] for pattern, group in found.items()},
    }


def _site(group: SiteGroup, module: int) -> dict[str, Any]:
    return {
        "role": group.role, "stack": group.stack, "d_in": group.d_in, "d_out": group.d_out, "bias": int(group.bias),
        "module": module, "whole": group.whole,
        "fused": group.whole and bool(group.module.slices), **_layers(group.layers),
    }  # fmt: skip
