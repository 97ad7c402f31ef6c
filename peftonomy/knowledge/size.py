"""Determine the hyperparameter that sets a method's size, for queries such as "as much as fits the budget".

It is derived, not declared. It is the first integer hyperparameter for which two conditions hold. The trained count
only grows with it. Doubling it has at least half the largest effect on the trained and stored counts. Its upper
bounds from conditions are collected too, so that the search in the page (`site/scripts/engine.js`) starts below them.
"""

from __future__ import annotations

import ast
import contextlib
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ..costs.layout import Part
from ..costs.plan import Plan
from ..errors import UsageError
from ..formula import Formula
from ..schema.method import MethodEntry

if TYPE_CHECKING:
    from ..catalogue.records import MethodRecord, ModelLike

__all__ = ["bounds", "hyperparameter", "names"]

TRIED = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512, 1024)


def hyperparameter(method: MethodRecord, models: Sequence[ModelLike]) -> str:
    """Return the name of the hyperparameter that sets the size, "" if there is none."""
    wholes = [n for n, h in method.entry.hyperparameters.items() if h.type == "int"]
    effects = {name: max((_effect(method, name, model) for model in models), default=0.0) for name in wholes}
    most = max(effects.values(), default=0.0)
    return next((name for name, effect in effects.items() if most and effect >= most / 2), "")


def _effect(method: MethodRecord, name: str, model: ModelLike) -> float:
    """Return the growth of trained and stored, in powers of two, for a doubled default.

    The result is 0 if trained does not always grow.
    """
    try:
        plan = method.plan(model)
        usual = plan.cost({})
        doubled = plan.cost({name: 2 * int(usual.hyperparameters[name])})
    except UsageError:  # outside the domain, or no targets
        return 0.0
    if not 0 < usual.trained < doubled.trained or not _grows(plan, name):
        return 0.0
    stored = doubled.stored_bytes / usual.stored_bytes if usual.stored_bytes else 1.0
    return math.log2(doubled.trained / usual.trained) + math.log2(max(stored, 1.0))


def _grows(plan: Plan, name: str) -> bool:
    """Return True if larger values never reduce trained or stored, and the largest increases them."""
    found = []
    for value in TRIED:
        with contextlib.suppress(UsageError):
            cost = plan.cost({name: value})
            found.append((cost.trained, cost.stored_bytes))
    pairs = list(itertools.pairwise(found))
    return all(a[0] <= b[0] and a[1] <= b[1] for a, b in pairs) and bool(pairs) and pairs[-1][0][0] < pairs[-1][1][0]


def names(parts: Sequence[Part], size: str) -> list[str]:
    """Return each part's name for the first part's hyperparameter `size`; "" if it has none."""
    called = [size]
    for part in parts[1:]:
        above = called[part.parent]
        called.append(next((inner for inner, outer in part.rename.items() if above and outer == above), ""))
    return called


def bounds(entry: MethodEntry, name: str) -> dict[str, list[Formula]]:
    """Return the upper bounds of a hyperparameter in the domains ("") and in the conditions of each tensor."""
    if not name:
        return {}
    domains = [h.domain for h in entry.hyperparameters.values() if h.domain is not None]
    found = {"": [b for domain in domains for b in _upper(domain, name)]}
    for key, tensor in entry.tensors.items():
        if tensor.requires is not None and (tensor.if_ is None or name not in tensor.if_.names):
            found[key] = list(_upper(tensor.requires, name))
    return found


def _upper(condition: Formula, name: str) -> Iterator[Formula]:
    """Yield `x` of each `name <= x`, `name < x` and `x % name == 0` in a conjunction."""
    tree = ast.parse(condition.source, mode="eval").body
    for part in tree.values if isinstance(tree, ast.BoolOp) and isinstance(tree.op, ast.And) else [tree]:
        if isinstance(part, ast.Compare):
            items = [part.left, *part.comparators]
            for left, op, right in zip(items, part.ops, items[1:], strict=False):
                if isinstance(op, ast.Lt | ast.LtE | ast.Eq) and _is(left, name):
                    yield from _free(right, name)
                elif isinstance(op, ast.Gt | ast.GtE | ast.Eq) and _is(right, name):
                    yield from _free(left, name)
                elif isinstance(left, ast.BinOp) and isinstance(left.op, ast.Mod) and _is(left.right, name):
                    yield from _free(left.left, name)


def _is(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _free(node: ast.expr, name: str) -> Iterator[Formula]:
    found = Formula.parse(ast.unparse(node))
    if name not in found.names:
        yield found
