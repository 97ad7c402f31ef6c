"""Sizes that stay symbols while a step runs, and a record of every decision that depended on their values.

A `Whole` is a polynomial with integer coefficients in positive whole numbers: the batch, the length, hyperparameters.
It carries the value of one example. Comparisons are decided by that value, and `Trace` records the decision as a
condition under which the result of the run is valid. An operation without a polynomial result records that the symbol
equals its example, and goes on with the plain number. So a run on symbols is never wrong, only less general.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from struct import Struct
from typing import Any, NamedTuple

from ..errors import UsageError

__all__ = ["Compiled", "Real", "Terms", "Trace", "Whole", "at", "dominates", "int_of", "packed", "undominated"]

Terms = Mapping[int, int]
"""A polynomial: the coefficient of each monomial, by the monomial's number. Monomial 0 is 1."""
NEGATIVE, ZERO, POSITIVE = 1, 2, 4
FLIPPED = {NEGATIVE: POSITIVE, POSITIVE: NEGATIVE}
SIGNS: dict[str, int] = {
    "lt": NEGATIVE, "le": NEGATIVE | ZERO, "eq": ZERO, "ne": NEGATIVE | POSITIVE, "gt": POSITIVE, "ge": POSITIVE | ZERO,
}  # fmt: skip
"""The signs of the difference for which a comparison holds."""
ALL = NEGATIVE | ZERO | POSITIVE
LANE = 64
HALF = 1 << LANE - 1
PLAIN = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow")


class Division(NamedTuple):
    """A monomial that is the quotient or remainder of two polynomials."""

    operation: Callable[[int, int], int]
    a: Terms
    b: Terms


class Trace:
    """The symbols of one run, their monomials, and the conditions under which the result of the run is valid.

    made: how to compute each monomial: a number of the question, a product of two earlier ones, or a division.
    """

    def __init__(self) -> None:
        self.made: list[int | tuple[int, int] | Division] = [0]
        self.examples: list[int] = [1]
        self.factors: list[tuple[int, ...]] = [()]
        self.numbers: dict[tuple[int, ...], int] = {(): 0}
        self.products: dict[tuple[int, int], Any] = {}
        self.divisions: dict[Any, Any] = {}
        self.decided: dict[tuple[str, int], bool] = {}
        self.conditions: dict[tuple[tuple[int, int], ...], int] = {}
        self.compared: dict[tuple[int, Callable[[Any, Any], bool], Any, bool], None] = {}
        self.inputs = 0

    def whole(self, example: int) -> Whole:
        """Return a symbol for the next number of a question, which is at least 1."""
        self.inputs += 1
        return self._symbol(self.inputs - 1, example)

    def _symbol(self, made: int | Division, example: int) -> Whole:
        number = len(self.made)
        self.made.append(made)
        self.examples.append(example)
        self.factors.append((number,))
        self.numbers[number,] = number
        return Whole(self, 1 << number * LANE, example)

    def _interned(self, factors: tuple[int, ...]) -> int:
        """Return the number of a product of symbols."""
        found = self.numbers.get(factors)
        if found is None:
            rest = self._interned(factors[:-1])
            found = self.numbers[factors] = len(self.made)
            self.made.append((rest, factors[-1]))
            self.examples.append(self.examples[rest] * self.examples[factors[-1]])
            self.factors.append(factors)
        return found

    def rows(self, packed: Sequence[int]) -> list[tuple[int, ...]]:
        """Return the coefficients of polynomials for all monomials, in order."""
        size, bias, unpack = _lanes(len(self.made))
        return [unpack(((p + bias) ^ bias).to_bytes(size, "little")) for p in packed]

    def terms(self, value: Any) -> dict[int, int]:
        """Return the coefficients of a polynomial or plain number, without zeros.

        Raises UsageError if one has more than 63 bits.
        """
        try:
            (row,) = self.rows([packed(value)])
        except OverflowError:
            row = ()
        if sum(map(operator.mul, row, self.examples)) != int_of(value):
            raise UsageError("memory: a size of this step takes more than 2**63 bytes")
        return {k: c for k, c in enumerate(row) if c}

    def product(self, a: Whole, b: Whole) -> Any:
        """Return the product of two polynomials."""
        key = a.packed, b.packed
        found = self.products.get(key)
        if found is None:
            total = 0
            theirs = self.terms(b)
            for i, c in self.terms(a).items():
                for j, d in theirs.items():
                    k = self._interned(tuple(sorted(self.factors[i] + self.factors[j])))
                    total += c * d << k * LANE
            found = self.products[key] = self.unpacked(total, a.value * b.value)
        return found

    def divided(self, operation: Callable[[int, int], int], a: Any, b: Any) -> Any:
        """Return a quotient or remainder: a new symbol, or a plain number if the example is below 1."""
        key = operation, packed(a), packed(b)
        found = self.divisions.get(key)
        if found is None:
            example = operation(int_of(a), int_of(b))
            found = self._symbol(Division(operation, self.terms(a), self.terms(b)), example)
            if example < 1:
                found = found.plain()
            else:
                self.require(found, POSITIVE)
            self.divisions[key] = found
        return found

    def unpacked(self, packed: int, value: int) -> Any:
        """Return a polynomial, or a plain number if it is constant."""
        return packed if -HALF <= packed < HALF else Whole(self, packed, value)

    def holds(self, relation: str, difference: int, value: int) -> bool:
        """Compare a difference with 0 for the example. Record the decision unless it is the same for all numbers."""
        found = self.decided.get((relation, difference))
        if found is None:
            found = bool(getattr(operator, relation)(value, 0))
            signs = SIGNS[relation] if found else ALL ^ SIGNS[relation]
            coefficients = self.terms(Whole(self, difference, value)).values()
            always = POSITIVE if min(coefficients) > 0 else NEGATIVE if max(coefficients) < 0 else 0
            if not always & signs:
                self.require(Whole(self, difference, value), signs)
            self.decided[relation, difference] = found
        return found

    def require(self, polynomial: Whole, signs: int) -> None:
        """Record that the run is valid only if a polynomial has one of these signs."""
        terms = self.terms(polynomial)
        shared = math.gcd(*terms.values())
        key = tuple(sorted((k, c // shared) for k, c in terms.items()))
        if key[-1][1] < 0:
            key = tuple((k, -c) for k, c in key)
            signs = sum(FLIPPED.get(sign, sign) for sign in (NEGATIVE, ZERO, POSITIVE) if signs & sign)
        self.conditions[key] = self.conditions.get(key, ALL) & signs


class Whole:
    """A whole number that is a polynomial in symbols.

    packed: its coefficients, each in LANE bits of one integer, so that sums are sums of integers. value: its value for
    the example.
    """

    __slots__ = ("packed", "trace", "value")

    def __init__(self, trace: Trace, packed: int, value: int):
        self.trace, self.packed, self.value = trace, packed, value

    def plain(self) -> int:
        """Return the value for the example, and record that the run is valid only for this value."""
        self.trace.require(Whole(self.trace, self.packed - self.value, 0), ZERO)
        return self.value

    def __add__(self, other: Any) -> Any:
        if type(other) is Whole:
            total = self.packed + other.packed
            return total if -HALF <= total < HALF else Whole(self.trace, total, self.value + other.value)
        if isinstance(other, int):
            return Whole(self.trace, self.packed + other, self.value + other) if other else self
        return self.plain() + other

    def __radd__(self, other: Any) -> Any:
        return self + other if isinstance(other, int) else other + self.plain()

    def __pos__(self) -> Whole:
        return self

    def __neg__(self) -> Whole:
        return Whole(self.trace, -self.packed, -self.value)

    def __sub__(self, other: Any) -> Any:
        if type(other) is Whole:
            total = self.packed - other.packed
            return total if -HALF <= total < HALF else Whole(self.trace, total, self.value - other.value)
        if isinstance(other, int):
            return Whole(self.trace, self.packed - other, self.value - other) if other else self
        return self.plain() - other

    def __rsub__(self, other: Any) -> Any:
        return -self + other if isinstance(other, int) else other - self.plain()

    def __mul__(self, other: Any) -> Any:
        if isinstance(other, int):
            return Whole(self.trace, self.packed * other, self.value * other) if other else 0
        if type(other) is Whole:
            return self.trace.product(self, other)
        return self.plain() * other

    def __rmul__(self, other: Any) -> Any:
        return self * other if isinstance(other, int) else other * self.plain()

    def __pow__(self, exponent: Any) -> Any:
        if not isinstance(exponent, int) or exponent < 0:
            return self.plain() ** exponent
        result: Any = 1
        for _ in range(exponent):
            result = result * self
        return result

    def __floordiv__(self, other: Any) -> Any:
        if not isinstance(other, int | Whole):
            return self.plain() // other
        return self.trace.divided(operator.floordiv, self, other)

    def __rfloordiv__(self, other: Any) -> Any:
        return self.trace.divided(operator.floordiv, other, self) if isinstance(other, int) else other // self.plain()

    def __mod__(self, other: Any) -> Any:
        if not isinstance(other, int | Whole):
            return self.plain() % other
        return self.trace.divided(operator.mod, self, other)

    def __rmod__(self, other: Any) -> Any:
        return self.trace.divided(operator.mod, other, self) if isinstance(other, int) else other % self.plain()

    def _compared(self, relation: str, other: Any) -> bool:
        if type(other) is Whole:
            if self.packed == other.packed:
                return bool(SIGNS[relation] & ZERO)
            difference = self - other
            if type(difference) is Whole:
                return self.trace.holds(relation, difference.packed, difference.value)
            return bool(getattr(operator, relation)(difference, 0))
        if isinstance(other, int):
            return self.trace.holds(relation, self.packed - other, self.value - other)
        return bool(getattr(operator, relation)(self.plain(), other))

    def __lt__(self, other: Any) -> bool:
        return self._compared("lt", other)

    def __le__(self, other: Any) -> bool:
        return self._compared("le", other)

    def __gt__(self, other: Any) -> bool:
        return self._compared("gt", other)

    def __ge__(self, other: Any) -> bool:
        return self._compared("ge", other)

    def __eq__(self, other: object) -> bool:
        return self._compared("eq", other)

    def __ne__(self, other: object) -> bool:
        return self._compared("ne", other)

    def __bool__(self) -> bool:
        return self._compared("ne", 0)

    def __abs__(self) -> Any:
        return self if self >= 0 else -self

    def __ceil__(self) -> Whole:
        return self

    __floor__ = __trunc__ = __ceil__

    def __int__(self) -> int:
        return self.plain()

    __index__ = __int__

    def __float__(self) -> float:
        return float(self.plain())

    def __truediv__(self, other: Any) -> Any:
        return self.plain() / other

    def __rtruediv__(self, other: Any) -> Any:
        return other / self.plain()

    def __hash__(self) -> int:
        return hash(self.plain())


class Real:
    """A hyperparameter of type float. Comparisons with plain numbers are recorded; other operations fix its value."""

    __slots__ = ("index", "trace", "value")

    def __init__(self, trace: Trace, index: int, value: float):
        self.trace, self.index, self.value = trace, index, value

    def plain(self) -> float:
        """Return the value for the example, and record that the run is valid only for this value."""
        self.trace.compared[self.index, operator.eq, self.value, True] = None
        return self.value

    def _compared(self, relation: Callable[[Any, Any], bool], other: Any) -> bool:
        if not isinstance(other, int | float):
            return bool(relation(self.plain(), other))
        holds = bool(relation(self.value, other))
        self.trace.compared[self.index, relation, other, holds] = None
        return holds

    def __lt__(self, other: Any) -> bool:
        return self._compared(operator.lt, other)

    def __le__(self, other: Any) -> bool:
        return self._compared(operator.le, other)

    def __gt__(self, other: Any) -> bool:
        return self._compared(operator.gt, other)

    def __ge__(self, other: Any) -> bool:
        return self._compared(operator.ge, other)

    def __eq__(self, other: object) -> bool:
        return self._compared(operator.eq, other)

    def __ne__(self, other: object) -> bool:
        return self._compared(operator.ne, other)

    def __bool__(self) -> bool:
        return self._compared(operator.ne, 0)

    def __float__(self) -> float:
        return self.plain()

    def __int__(self) -> int:
        return int(self.plain())

    def __ceil__(self) -> int:
        return math.ceil(self.plain())

    def __floor__(self) -> int:
        return math.floor(self.plain())

    def __pos__(self) -> Real:
        return self

    def __neg__(self) -> float:
        return -self.plain()

    def __abs__(self) -> float:
        return abs(self.plain())

    def __hash__(self) -> int:
        return hash(self.plain())


def _fixing(name: str) -> None:
    """Define an operator of `Real` that fixes its value."""
    operation: Callable[[Any, Any], Any] = getattr(operator, name)
    setattr(Real, f"__{name}__", lambda self, other: operation(self.plain(), other))
    setattr(Real, f"__r{name}__", lambda self, other: operation(other, self.plain()))


for _name in PLAIN:
    _fixing(_name)


@lru_cache(maxsize=64)
def _lanes(n: int) -> tuple[int, int, Callable[[bytes], tuple[int, ...]]]:
    """Return the bytes of n coefficients, the number that makes all of them positive, and the function that unpacks."""
    return n * LANE // 8, sum(1 << (k + 1) * LANE - 1 for k in range(n)), Struct(f"<{n}q").unpack


def packed(value: Any) -> int:
    """Return a polynomial's coefficients in one integer; a plain number unchanged."""
    return value.packed if type(value) is Whole else int(value)


def int_of(value: Any) -> int:
    """Return the value for the example."""
    return value.value if type(value) is Whole else int(value)


def dominates(a: Sequence[int], b: Sequence[int]) -> bool:
    """Return whether no coefficient of a is below that of b. Then a is at least b for all positive numbers."""
    return all(map(operator.ge, a, b))


def undominated(rows: Sequence[Sequence[int]]) -> list[int]:
    """Return the numbers of the rows that no kept row before them dominates.

    Rows may be hundreds. So each is one integer, with a field for each coefficient and a bit above it: after a
    subtraction, all these bits are left if and only if no field was below the other row's.
    """
    width = max((abs(c).bit_length() for row in rows for c in row), default=0) + 2
    bits = sum(1 << (width * i + width - 1) for i in range(max(map(len, rows), default=0)))
    kept, found = list[int](), list[int]()
    for number, row in enumerate(rows):
        one = sum((c + (1 << width - 2)) << width * i for i, c in enumerate(row))
        if not any((above - one) & bits == bits for above in kept):
            kept.append(one | bits)
            found.append(number)
    return found


class Compiled:
    """The monomials and conditions of a trace, for other numbers than its example."""

    def __init__(self, trace: Trace, used: Sequence[Terms]):
        wanted = {0}

        def want(number: int) -> None:
            if number in wanted:
                return
            made = trace.made[number]
            if isinstance(made, Division):
                for part in (*made.a, *made.b):
                    want(part)
            elif isinstance(made, tuple):
                want(made[0])
                want(made[1])
            wanted.add(number)

        for terms in (*used, *map(dict, trace.conditions)):
            for number in terms:
                want(number)
        self.places = {number: i for i, number in enumerate(sorted(wanted))}
        self.steps = [trace.made[number] for number in sorted(wanted - {0})]
        self.conditions = [(self.row(dict(key)), signs) for key, signs in trace.conditions.items()]
        self.compared = [*trace.compared]

    def row(self, terms: Terms) -> tuple[int, ...]:
        """Return the coefficients of a polynomial for all monomials, in order."""
        row = [0] * len(self.places)
        for number, c in terms.items():
            row[self.places[number]] = c
        return tuple(row)

    def values(self, numbers: Sequence[int], reals: Sequence[float]) -> list[int] | None:
        """Return the values of the monomials, or None if a condition does not hold."""
        for index, relation, other, holds in self.compared:
            if relation(reals[index], other) != holds:
                return None
        found, places = [1], self.places
        for step in self.steps:
            if isinstance(step, int):
                found.append(numbers[step])
            elif isinstance(step, Division):
                a, b = (sum(c * found[places[k]] for k, c in terms.items()) for terms in (step.a, step.b))
                if not b:
                    return None
                found.append(step.operation(a, b))
            else:
                found.append(found[places[step[0]]] * found[places[step[1]]])
        for row, signs in self.conditions:
            value = at(row, found)
            if not signs & (POSITIVE if value > 0 else NEGATIVE if value < 0 else ZERO):
                return None
        return found


def at(row: Sequence[int], values: Sequence[int]) -> int:
    """Return the value of a polynomial for these values of the monomials."""
    return sum(map(operator.mul, row, values))
