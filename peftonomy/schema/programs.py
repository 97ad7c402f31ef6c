"""The language of operations: the computation of a model or a method, with one operation per line.

    attend q k v:
      eager: c = attend_eager q k v      # a condition over sizes and flags may precede the operation
      sdpa: c = fused q k v
      return c

A line is `[condition:] [names =] kind arguments`. The kind is an operation of the table of rules, or a function. An
argument is one of these:

- a name of the function or of one that called it;
- a role of the model's inventory (`attn.q`) or the path of a module;
- a tensor of the method's own (`.A`; `.A?` may be missing);
- the value that the line `share s x` stored (`$s`);
- a formula without spaces. It may name the sizes of the model and the method's hyperparameters, `seq`, the positions of
  an input, inside a layer `length`, the positions of what the layer was given, and `has_embed_audio` and the like, 1 if
  the model has such a role.

A function returns the value of its last line, or the names after `return`. This module does not interpret operations.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from ..errors import FormulaError, shown
from ..formula import Formula

__all__ = ["ORDERS", "Function", "Line", "compiled", "parse", "parse_all"]

HEAD = re.compile(r"[a-z]\w*( [A-Za-z]\w*)*\Z")
NAME = re.compile(r"[A-Za-z]\w*\Z")
SHAPED = re.compile(r"([A-Za-z]\w*)\[(.+)\]\Z")
COMMA = re.compile(r",(?![^()]*\))")
"""One outside of parentheses."""
ARGUMENT = re.compile(r"[.$]?[A-Za-z][\w.]*\??\Z")
MANY = 100
ORDERS: dict[str, tuple[int, int, int | None]] = {
    "return": (0, MANY, None), "each": (1, MANY, None), "share": (2, 2, None), "part": (4, 5, None),
    "unadapted": (0, 1, 0), "doubled": (2, MANY, 0), "another": (2, MANY, None), "nth": (2, 2, None),
    "every": (1, MANY, None), "loop": (2, MANY, 1), "stacked": (2, MANY, 1), "detached": (1, MANY, 0),
    "sized": (2, MANY, 0), "observed": (2, 2, 1), "only": (1, MANY, None), "none": (0, MANY, None),
    "either": (1, MANY, None), "reads": (0, MANY, None),
}  # fmt: skip
"""The kinds of lines that are no operations: the least and the largest number of arguments, and which argument names a
function."""


def compiled(*formulas: Formula) -> Callable[[Mapping[str, Any]], tuple[Any, ...]]:
    """Return a function that maps names to the values of several formulas."""
    made = Formula.together(formulas, (), ())
    return lambda names: tuple(made(names, {}))


@dataclass(frozen=True, eq=False)
class Line:
    """One operation.

    targets: the names of its results. shape: the sizes of its result, if the line declares them. arguments: each a name
    or a formula. condition: the formula that decides whether the line runs.
    """

    text: str
    targets: tuple[str, ...]
    kind: str
    arguments: tuple[str | Formula, ...]
    shape: tuple[Formula, ...] | None
    condition: Formula | None

    @cached_property
    def borrows(self) -> bool:
        """Whether it names a parameter of the backbone that a method acts on."""
        return any(word in (".weight", ".bias", ".bias?") for word in self.arguments)

    def formulas(self) -> list[Formula]:
        """Return the formulas that are evaluated before the line runs."""
        inside = [a for a in self.arguments if isinstance(a, Formula)]
        return inside + [*(self.shape or ())] + [f for f in (self.condition,) if f is not None]


@dataclass(frozen=True, eq=False)
class Function:
    """A function: its name, the names of its inputs, and its lines."""

    name: str
    inputs: tuple[str, ...]
    lines: tuple[Line, ...]


@lru_cache(maxsize=4096)
def parse(head: str, body: str) -> Function:
    """Parse a function from its head, `attend q k v`, and its lines. Raises ValueError with the invalid line."""
    if not HEAD.match(head):
        raise ValueError(f"function {shown(head)!r}: a name and the names of its inputs were expected")
    name, *inputs = head.split()
    texts = [text for raw in body.splitlines() if (text := raw.partition("#")[0].strip())]
    if not texts:
        raise ValueError(f"function {shown(head)!r}: no line; at least one was expected")
    return Function(name, tuple(inputs), tuple(_line(head, text) for text in texts))


def parse_all(programs: Mapping[str, str]) -> dict[str, Function]:
    """Parse functions and return them by name. Raises ValueError."""
    functions: dict[str, Function] = {}
    for head, body in programs.items():
        function = parse(head, body)
        if function.name in functions:
            raise ValueError(f"function {function.name!r} is defined twice; expected once")
        functions[function.name] = function
    return functions


def _line(head: str, text: str) -> Line:
    before, colon, rest = text.partition(": ")
    condition, rest = (before, rest) if colon else ("", text)
    names, equals, call = rest.partition(" = ")
    names, call = (names, call) if equals else ("", rest)
    kind, *words = call.split() or [""]
    shaped = SHAPED.match(names)
    targets = (shaped[1],) if shaped else tuple(names.split())
    for name in (*targets, kind):
        if not NAME.match(name):
            raise ValueError(f"function {shown(head)!r}: in {shown(text)!r}: found {shown(name)!r}; expected a name")
    try:
        shape = tuple(Formula.parse(size.strip()) for size in COMMA.split(shaped[2])) if shaped else None
        arguments = tuple(word if ARGUMENT.match(word) else Formula.parse(word) for word in words)
        when = Formula.parse(condition.strip()) if condition else None
    except FormulaError as error:
        raise ValueError(f"function {shown(head)!r}: in {shown(text)!r}: {error}") from None
    if shape is not None and len(shape) != 3:
        raise ValueError(f"function {shown(head)!r}: in {shown(text)!r}: found {len(shape)} sizes; expected 3")
    least, most, _ = ORDERS.get(kind, (0, MANY, None))
    if not least <= len(arguments) <= most:
        wanted = str(least) if least == most else f"{least} or more" if most == MANY else f"{least} to {most}"
        found = f"found {len(arguments)} arguments; expected {wanted}"
        raise ValueError(f"function {shown(head)!r}: in {shown(text)!r}: {found}")
    return Line(text, targets, kind, arguments, shape, when)
