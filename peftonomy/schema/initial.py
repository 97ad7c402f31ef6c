"""The language of `init` in entries: the initial values of a tensor.

    >>> start = Start.parse("uniform(1 / sqrt(d_in))")
    >>> start.at({"d_in": 16}).high
    0.25
    >>> Start.parse("zeros if tied else normal(0.02)").at({"tied": False}).kind
    'normal'

A start is one of

- `zeros`, `ones`, `constant(v)`, `identity` (ones on the diagonal), `dirac` (a convolution that changes nothing: ones
  at the centre of its kernels from each channel to itself): always the same values;
- `normal(std)`, `normal(std, mean)`, `truncated_normal(std, bound)`, `uniform(bound)` (from -bound to bound),
  `uniform(low, high)`, `signs(scale)`, `integers(low, high)` (high excluded): independent draws for each entry;
- `orthogonal`, `orthogonal(gain)`: a random matrix whose rows or columns, whichever are fewer, are orthonormal;
- `pretrained`: the backbone's own values;
- `computed: ...`: computed from weights, data or other tensors, as the text describes; the same for every seed;
- `drawn: ...`: random with another distribution, which the text describes;
- `A if condition else B`.

Arguments and conditions are formulas over the hyperparameters and the dimensions of the location.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ..errors import FormulaError, near, shown
from ..formula import Formula

__all__ = ["Distribution", "Start"]

WORDS: dict[str, tuple[int, int]] = {
    "zeros": (0, 0), "ones": (0, 0), "constant": (1, 1), "identity": (0, 0), "dirac": (0, 0), "orthogonal": (0, 1),
    "normal": (1, 2), "truncated_normal": (2, 2), "uniform": (1, 2), "signs": (1, 1), "integers": (2, 2),
    "pretrained": (0, 0),
}  # fmt: skip
"""The kinds of start, each with its minimum and maximum number of arguments."""
PROSE = ("computed", "drawn")
"""The kinds that a text describes."""
CALL = re.compile(r"([a-z_]+)\s*(?:\((.*)\))?\s*\Z", re.DOTALL)


@dataclass(frozen=True)
class Distribution:
    """A start with its arguments evaluated. A kind without arguments has NaN as mean and standard deviation."""

    kind: str
    mean: float = math.nan
    std: float = math.nan
    low: float = -math.inf
    high: float = math.inf

    @property
    def fixed(self) -> bool:
        """True if every entry is known without drawing."""
        return self.kind in ("constant", "identity", "dirac")

    @property
    def kurtosis(self) -> float | None:
        """Excess kurtosis, if the kind has one: -1.2 for uniform, 0 for normal, -2 for signs."""
        return {"uniform": -1.2, "normal": 0.0, "signs": -2.0}.get(self.kind)


@dataclass(frozen=True)
class Start:
    """A parsed start. Build it with `Start.parse`."""

    kind: str
    arguments: tuple[Formula, ...] = ()
    prose: str = ""
    condition: Formula | None = None
    branches: tuple[Start, ...] = ()
    """With a condition: the start if it holds, and the start if it does not."""

    @classmethod
    @lru_cache(maxsize=4096)
    def parse(cls, text: str) -> Start:
        """Parse a start. Raises ValueError with the expected text."""
        kind, colon, prose = text.partition(":")
        if colon and kind.strip() in PROSE:
            if not prose.strip():
                raise ValueError(f"words after `{kind.strip()}:` were expected")
            return cls(kind.strip(), prose=prose.strip())
        parts = _split(text, " if ")
        if len(parts) > 1:
            rest = _split(parts[1], " else ") if len(parts) == 2 else []
            if len(rest) < 2:
                raise ValueError("`A if condition else B` was expected")
            other = " else ".join(rest[1:])
            condition = _formula(rest[0])
            return cls("if", condition=condition, branches=(cls.parse(parts[0].strip()), cls.parse(other.strip())))
        match = CALL.match(text.strip())
        word = match[1] if match else text.strip()
        if match is None or word not in WORDS:
            close = near(word, [*WORDS, *PROSE])
            hint = f"; did you mean {' or '.join(close)}?" if close else ""
            raise ValueError(f"one of {', '.join(WORDS)}, `computed: ...` or `drawn: ...` was expected{hint}")
        given = [part.strip() for part in _split(match[2], ",")] if match[2] is not None else []
        least, most = WORDS[word]
        if not least <= len(given) <= most:
            wanted = str(least) if least == most else f"{least} to {most}"
            raise ValueError(f"{word} with {wanted} argument{'s' if most != 1 else ''} was expected, not {len(given)}")
        return cls(word, tuple(_formula(part) for part in given))

    def formulas(self) -> Iterator[Formula]:
        """Yield every formula of the start."""
        yield from self.arguments
        if self.condition is not None:
            yield self.condition
        for branch in self.branches:
            yield from branch.formulas()

    def at(self, known: Mapping[str, Any]) -> Distribution:
        """Return the distribution for these values of the names. Raises FormulaError."""
        if self.condition is not None:
            return self.branches[0 if self.condition(known) else 1].at(known)
        values = [float(argument(known)) for argument in self.arguments]
        return _distribution(self.kind, values)


def _distribution(kind: str, values: list[float]) -> Distribution:
    match kind:
        case "zeros" | "ones" | "constant":
            value = {"zeros": 0.0, "ones": 1.0}[kind] if kind != "constant" else values[0]
            return Distribution("constant", value, 0.0, value, value)
        case "normal":
            return Distribution(kind, values[1] if len(values) > 1 else 0.0, values[0])
        case "uniform":
            low, high = values if len(values) > 1 else (-values[0], values[0])
            return Distribution(kind, (low + high) / 2, (high - low) / math.sqrt(12), low, high)
        case "truncated_normal":
            std, bound = values
            cut = bound / std
            density = math.exp(-cut * cut / 2) / math.sqrt(2 * math.pi)
            spread = std * math.sqrt(1 - 2 * cut * density / math.erf(cut / math.sqrt(2)))
            return Distribution(kind, 0.0, spread, -bound, bound)
        case "signs":
            return Distribution(kind, 0.0, values[0], -values[0], values[0])
        case "integers":
            low, high = values
            return Distribution(kind, (low + high - 1) / 2, math.sqrt(((high - low) ** 2 - 1) / 12), low, high - 1)
        case "orthogonal":
            return Distribution(kind, high=values[0] if values else 1.0)
        case _:
            return Distribution(kind)


def _formula(text: str) -> Formula:
    try:
        return Formula.parse(text)
    except FormulaError as error:
        raise ValueError(f"column {error.column} of {shown(text)!r}: {error.message}") from None


def _split(text: str, mark: str) -> list[str]:
    """Split a text at the marks outside all brackets."""
    parts, depth, begin, i = list[str](), 0, 0, 0
    while i < len(text):
        depth += (text[i] == "(") - (text[i] == ")")
        if depth == 0 and text.startswith(mark, i):
            parts.append(text[begin:i])
            i += len(mark)
            begin = i
        else:
            i += 1
    return [*parts, text[begin:]]
