"""Deliberate errors in reference implementations: does the golden vector notice?

    python -m tests.errors [METHOD]...

An error is one change in the source of a module: a product or quotient half as large again (scale), a sum for a
difference (sign), another initial value (init), a parameter frozen or a frozen tensor trained (trained), another
default that the vector records (default). Code that no vector runs is left out: what only `apply` on other kinds of
models, `pack` or `unpack` reach.
"""

from __future__ import annotations

import ast
import copy
import functools
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from peftonomy.conformance.golden import Vector, compare, vectors
from peftonomy.conformance.suite import compared
from peftonomy.conformance.trial import KB

ROOT = Path(__file__).parent.parent
KINDS = ("scale", "sign", "init", "trained", "default")
OTHER_START = {"zeros": "ones", "ones": "zeros", "zeros_": "ones_", "ones_": "zeros_", "randn": "rand", "rand": "randn",
               "kaiming_uniform_": "kaiming_normal_", "xavier_uniform_": "xavier_normal_", "normal_": "uniform_",
               "uniform_": "normal_", "eye": "ones", "orthogonal_": "zeros_", "trunc_normal_": "zeros_"}  # fmt: skip
SKIPPED = {"pack", "unpack", "load", "__repr__"}


@dataclass(frozen=True)
class Error:
    """One change in one module: its kind and the line."""

    method: str
    kind: str
    number: int
    line: int

    def __str__(self) -> str:
        return f"{self.method}: {self.kind} in line {self.line}"


class _Change(ast.NodeTransformer):
    """Counts the places of one kind; changes the one whose number is asked for."""

    def __init__(self, kind: str, wanted: int = -1, defaults: frozenset[str] = frozenset()):
        self.kind, self.wanted, self.defaults = kind, wanted, defaults
        self.lines: list[int] = []

    def here(self, node: Any) -> bool:
        self.lines.append(node.lineno)
        return len(self.lines) - 1 == self.wanted

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        if node.name in SKIPPED:
            return node
        if self.kind == "default" and node.name == "apply":
            for i, (argument, default) in enumerate(zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)):
                known = isinstance(default, ast.Constant) and isinstance(default.value, int | float)
                if known and argument.arg in self.defaults and self.here(default):
                    value = default.value
                    node.args.kw_defaults[i] = ast.Constant(not value if isinstance(value, bool) else value * 2 + 1)
        node.body = [self.visit(child) for child in node.body]
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        if self.kind == "scale" and isinstance(node.op, ast.Mult | ast.Div | ast.MatMult) and self.here(node):
            return ast.copy_location(ast.BinOp(node, ast.Mult(), ast.Constant(1.5)), node)
        if self.kind == "sign" and isinstance(node.op, ast.Add | ast.Sub) and not _text(node) and self.here(node):
            node.op = ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        if self.kind == "init" and name in OTHER_START and self.here(node):
            assert isinstance(node.func, ast.Attribute)
            node.func.attr = OTHER_START[name]
            if name in ("kaiming_uniform_", "orthogonal_", "trunc_normal_"):
                node.args, node.keywords = node.args[:1], []
            if name in ("normal_", "uniform_"):
                node.keywords = []
            if name == "eye" and len(node.args) == 1:
                node.args = [node.args[0], node.args[0]]
        if self.kind == "trained" and name == "Parameter" and self.here(node):
            frozen = any(k.arg == "requires_grad" and not getattr(k.value, "value", True) for k in node.keywords)
            node.keywords = [ast.keyword("requires_grad", ast.Constant(frozen))]
        return node


def _text(node: ast.BinOp) -> bool:
    """Whether something but numbers may be added there: tuples, lists, strings."""
    sides = (node.left, node.right)
    return any(isinstance(s, ast.Tuple | ast.List | ast.JoinedStr) or isinstance(getattr(s, "value", None), str)
               for s in sides)  # fmt: skip


@functools.cache
def lines(method: str) -> frozenset[int]:
    """The lines of the module that its vectors run."""
    path, seen = str(ROOT / "reference_impls" / f"{method}.py"), set[int]()

    def trace(frame: Any, event: str, _: Any) -> Any:
        if frame.f_code.co_filename != path:
            return None
        seen.add(frame.f_lineno)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        for vector in vectors_of(method):
            compare(vector, seeds=2)
    finally:
        sys.settrace(before)
    return frozenset(seen)


def errors(method: str) -> Iterator[Error]:
    """Every error that can be put into the lines of a module that its vectors run."""
    tree = ast.parse((ROOT / "reference_impls" / f"{method}.py").read_text(encoding="utf-8"))
    for kind in KINDS:
        change = _Change(kind, defaults=recorded_defaults(method))
        change.visit(copy.deepcopy(tree))
        for number, line in enumerate(change.lines):
            if kind == "default" or line in lines(method):
                yield Error(method, kind, number, line)


@functools.cache
def vectors_of(method: str) -> list[Vector]:
    return [vector for path in vectors(ROOT).values() if (vector := Vector.load(path)).method == method]


def recorded_defaults(method: str) -> frozenset[str]:
    return frozenset(name for vector in vectors_of(method) for name in vector.defaults)


def broken(error: Error) -> ModuleType:
    """The module with the error in it."""
    path = ROOT / "reference_impls" / f"{error.method}.py"
    tree = _Change(error.kind, error.number, recorded_defaults(error.method)).visit(ast.parse(path.read_text("utf-8")))
    name = f"reference_impls._broken_{error.method}"
    module = ModuleType(name)
    module.__dict__.update(__package__="reference_impls", __file__=str(path))
    sys.modules[name] = module          # dataclasses and annotations look there
    try:
        exec(compile(ast.fix_missing_locations(tree), str(path), "exec"), module.__dict__)
    finally:
        del sys.modules[name]
    return module


def notices(error: Error) -> bool:
    """Whether some vector of the method fails."""
    module = broken(error)
    for vector in vectors_of(error.method):
        deviations = KB[vector.method].entry.implementations[vector.implementation].deviations
        apart = {row for deviation in deviations for row in deviation.golden}
        try:
            if compared(vector, module, apart):
                return True
        except Exception:
            return True
    return False


def recorded() -> list[str]:
    """The methods that have a vector."""
    return sorted({Vector.load(path).method for path in vectors(ROOT).values()})


def one_each(seed: int) -> list[Error]:
    """One error for each method that has a vector: a kind is drawn among those it has, then a place.

    Another method changes none of the other draws.
    """
    found = []
    for method in recorded():
        draw, there = random.Random(f"{seed} {method}"), list(errors(method))
        kind = draw.choice(sorted({error.kind for error in there})) if there else ""
        found += [draw.choice([error for error in there if error.kind == kind])] if there else []
    return found


def main() -> None:
    todo = [e for m in sys.argv[1:] for e in errors(m)] or one_each(1)
    missed = [error for error in todo if not notices(error)]
    for error in missed:
        print(f"missed: {error}")
    print(f"{len(todo) - len(missed)} of {len(todo)} errors noticed")


if __name__ == "__main__":
    main()
