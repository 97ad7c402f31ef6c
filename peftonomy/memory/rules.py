"""The table of operations, `backbones/operations.yaml`: what each kind makes, keeps and passes on.

Formulas of the table name the sizes of an operation's inputs a, b, c, d and of its output y: `a1` is the second of
three sizes of a (sequences, positions, numbers), `w` the bytes of one number of the output, `wa` of one of a.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from ..files.documents import load_yaml
from ..formula import Formula
from ..schema.base import Entry, FormulaField, Functions, Name, validated
from ..schema.family import Fixed
from ..schema.programs import Function, Line, parse_all

__all__ = ["INPUTS", "Language", "Rule", "load_language"]

INPUTS = "abcd"
SIZE = re.compile(r"([abcdy])([0-2])\Z")
WIDTH = re.compile(r"w[abcd]?\Z")
KEPT = re.compile(r"(?:[abcdy](?::[abcd])?|s)\Z")
Type = Literal["half", "float32"]


def _kept(text: str) -> str:
    for word in text.split():
        if not KEPT.match(word):
            raise ValueError(f"found {word!r}; expected a, b, c, d or y, also as `a:b` (if b wants a gradient), or s")
    return text


class Rule(Entry):
    """A kind of operation."""

    keeps: Annotated[str, AfterValidator(_kept)] = ""
    """What the backward pass needs: `a:b` is a if b wants a gradient, `s` what the operation makes for itself."""
    own: FormulaField | None = None
    """Bytes of `s`."""
    shape: list[FormulaField] | None = Field(default=None, min_length=3, max_length=3)
    """Sizes of the output; without one, what the inputs are broadcast to."""
    numbers: list[Name] = Field(default_factory=list)
    """Names of the numbers that a line gives behind the tensors."""
    optional: int = 0
    """How many of these a line may leave out, which are then 0."""
    parts: bool = False
    """Whether it has several outputs, parts of a: one for each number given, which is the width of one."""
    skip: FormulaField | None = None
    """When the output is a itself."""
    lays: bool = False
    """Whether the heads of the output lie in memory as products of matrices read them; then none lays them again."""
    width: int | None = None
    """Bytes of one number of the output, where inputs do not say it."""
    like: int | None = None
    """The number of the input that says it, -1 being the last; without one, the widest that gradients pass through."""
    passes: bool | Literal["parts", "views"] = False
    """Whether the gradient of the output is that of the inputs, nothing new; `parts`: each has a part of it; `views`:
    and a parameter's gradient stays one."""
    view: bool = False
    """Whether the output is a part of a, and holds its memory."""
    through: int = 4
    """Through how many inputs gradients flow."""
    summed: bool = False
    """Whether the gradient of an input that was broadcast is as large as the output before it is summed."""
    beside: FormulaField | None = None
    """Bytes that the backward pass holds for a while besides."""
    during: FormulaField | None = None
    """Bytes that the forward pass holds for a while besides."""
    flops: FormulaField | None = None
    """Floating-point operations; the backward pass takes as many for each of the first two that wants a gradient."""
    back: FormulaField | None = None
    """Those of the backward pass, where that is not so."""
    alone: bool = False
    """Whether the output is a itself where all other inputs are missing."""
    free: bool = False
    """Whether the output takes no memory, since the model holds it anyway."""
    single: bool = False
    """Whether torch has it for no type of fewer than four bytes."""
    live: dict[Literal["b", "c", "d"], Name] = Field(default_factory=dict)
    """The function that stands in its place where an input wants a gradient."""
    bias: bool = False
    """Whether a module's bias is its third input."""
    cpu: Type | None = None
    """The type that autocast gives its inputs on a CPU."""
    cuda: Type | None = None
    """The same on a GPU."""

    @cached_property
    def needs(self) -> tuple[tuple[int, int | None], ...]:
        """Return what is kept, by number (-1: the output, -2: own bytes), each with the number of the input that must
        require a gradient, or None."""
        index = {**{name: i for i, name in enumerate(INPUTS)}, "y": -1, "s": -2}
        pairs = [word.partition(":")[::2] for word in self.keeps.split()]
        return tuple((index[what], index[need] if need else None) for what, need in pairs)

    @cached_property
    def sizes(self) -> dict[str, Sized]:
        """Return the compiled formulas by field."""
        one = {name: getattr(self, name) for name in ("own", "skip", "beside", "during", "flops", "back")}
        found = {name: Sized([formula], self.numbers) for name, formula in one.items() if formula is not None}
        return found | ({} if self.shape is None else {"shape": Sized(self.shape, self.numbers)})


class Sized:
    """Formulas over the sizes of tensors, compiled: `(names, tensors, output, numbers)` gives the tuple of values."""

    def __init__(self, formulas: Sequence[Formula], numbers: Sequence[str]):
        self.formulas, self.numbers = formulas, numbers
        self.named = frozenset[str]().union(*(f.names for f in formulas))
        self._made: dict[int, Callable[..., Any]] = {}

    def __call__(self, names: Mapping[str, Any], inputs: Sequence[Any], y: Any, numbers: Sequence[Any]) -> Any:
        made = self._made.get(len(inputs))
        if made is None:
            made = self._made[len(inputs)] = self._make(len(inputs))
        return made(names, inputs, y, numbers)

    def _make(self, n: int) -> Callable[..., Any]:
        """Return the function for this number of inputs. The sizes of a missing input are 1."""
        written = {}
        for name in self.named:
            if name in self.numbers:
                written[name] = f"_numbers[{self.numbers.index(name)}]"
            elif (size := SIZE.match(name)) or WIDTH.match(name):
                letter = name[:1] if size else name[1:] or "y"
                at = INPUTS.find(letter)
                tensor = "_y" if letter == "y" else f"_inputs[{at}]"
                held = f"{tensor}.shape[{size[2]}]" if size else f"{tensor}.width"
                written[name] = held if at < n else "1"
        return Formula.over(self.formulas, ("_inputs", "_y", "_numbers"), written)


class Pattern(Entry):
    """Functions that many methods share."""

    functions: Functions


class Language(Entry):
    """The content of `backbones/operations.yaml`."""

    rules: dict[Name, Rule]
    points: dict[Name, Literal["inside", "eager", "any"]]
    """Functions that do nothing until a method puts its own in their place, each after the other. `eager`: attention
    is then written out."""
    functions: Functions
    """What families share."""
    fixed: Fixed = Field(default_factory=dict)
    """Options of config.json that all families assume, with the values for which their functions hold."""
    patterns: dict[Name, Pattern] = Field(default_factory=dict)

    @cached_property
    def shared(self) -> dict[str, Function]:
        """Return the shared functions, parsed."""
        return parse_all(self.functions)

    def lacks(self, line: Line) -> str:
        """Return the input that the size of a line's result depends on and that the line does not give; else ""."""
        rule = self.rules.get(line.kind)
        if rule is None or rule.shape is None or rule.parts or line.shape is not None:
            return ""
        given = len(line.arguments) - len(rule.numbers) + rule.optional
        named = {name[0] for formula in rule.shape for name in formula.names if SIZE.match(name)}
        return next((letter for letter in INPUTS[given:] if letter in named), "")


@lru_cache(maxsize=4)
def load_language(path: Path) -> Language:
    """Return the table and the shared functions. Raises DataError with every problem and its line."""
    return validated(Language, load_yaml(path, f"{path.parent.name}/{path.name}"))
