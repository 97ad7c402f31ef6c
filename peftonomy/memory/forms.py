"""Closed forms of a step, derived: one run on symbols answers all questions that take the same decisions.

A form is derived by running the unchanged step on symbols (see `symbols`) for the batch, the length and the numeric
hyperparameters. It holds for one plan, one choice of all other hyperparameters and settings, and the same rows of the
plan. A question whose numbers lead to other decisions (a batch of 1, for example) gets a form of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from operator import mul
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

from ..catalogue.records import Records
from ..costs.layout import Spot
from ..errors import UsageError
from ..schema.base import Value
from .asked import Asked, Ledger, Totals, modelled
from .machine import Flags
from .program import Model, Program, Turn
from .setting import DTYPES, Setting
from .sharding import Sharding
from .symbols import Compiled, Real, Terms, Trace, at, dominates, int_of, packed, undominated
from .tape import Tape

if TYPE_CHECKING:
    from ..costs.plan import Plan, Row

__all__ = ["Form", "Question", "Symbolic", "derived"]

MOST_BYTES = 2**62
"""Coefficients are exact as long as a step takes fewer."""
Moment = tuple[Any, ...]
"""Bytes alive at a moment, and the tape's `parts` of them."""


class Question(NamedTuple):
    """A setting with hyperparameters, sorted by how a form uses them.

    kind: all that a form is derived for. numbers: the batch, the length, and whole hyperparameters from 1 on. reals:
    hyperparameters of type float.
    """

    kind: tuple[Any, ...]
    numbers: tuple[int, ...]
    reals: tuple[float, ...]

    @staticmethod
    def of(
        setting: Setting, values: Mapping[str, Value], rows: Sequence[Row], sharding: Sharding | None = None,
        turn: Turn | None = None,
    ) -> Question:  # fmt: skip
        """Return the question that these values and rows ask. sharding: of a rank whose step is its own. turn: the
        layers that are trained now."""
        numbers, reals, others = [setting.batch, setting.tokens], list[float](), list[Any]()
        for value in values.values():
            if symbolic(value):
                numbers.append(value)
            elif isinstance(value, float):
                reals.append(value)
            else:
                others.append(value)
            others.append(type(value))
        same = [(id(r.piece), r.copies, r.layers, r.learns, None if dense(r) else r.count) for r in rows]
        widths = (*DTYPES[setting.dtype], setting.dtype == "mixed")
        kind = (turn, *widths, setting.attention, setting.checkpointing, *others, *same)
        if sharding is not None:
            kind = (*kind, setting.quantized, replace(sharding, gpus=2))
            numbers.append(sharding.gpus)
        return Question(kind, tuple(numbers), tuple(reals))


def symbolic(value: Any) -> TypeGuard[int]:
    """Return whether one form covers all values of such a hyperparameter."""
    return type(value) is int and value > 0


def dense(row: Row) -> bool:
    """Return whether the sizes of a row's tensors come from a declared shape."""
    return row.piece.tensor.shape is not None and not row.roles


class Moments(Tape):
    """A tape that records every moment."""

    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self.trace = trace
        self.moments: list[Moment] = []

    def see(self, moment: Any) -> None:
        """Record a moment."""
        self.moments.append((moment, *self.parts))

    def watch(self) -> Any:
        """Begin to watch: `high` is the number of the first moment of the watch."""
        outer, self.high = self.high, len(self.moments)
        return outer

    def watched(self) -> Any:
        """The most bytes alive since `watch`. Which moment that is becomes a condition of the form."""
        return max(alive for alive, *_ in self.moments[self.high :])

    def unwatch(self, outer: Any) -> None:
        """End the watch. The one around it began earlier, so that it has these moments too."""
        self.high = outer

    def highest(self) -> list[tuple[Terms, ...]]:
        """Return the moments that may be the highest, in their order, and start a new list.

        A moment is left out if another one is at least as high for all numbers. Of two that are always equal the first
        one is kept, as in `Tape.see`.
        """
        found, self.moments = self.moments, []
        if max(int_of(alive) for alive, *_ in found) >= MOST_BYTES:
            raise UsageError(f"memory: this step takes more than {MOST_BYTES} bytes")
        rows = self.trace.rows([packed(alive) for alive, *_ in found])
        peaks: list[int] = []  # a quick first pass compares neighbours only
        for i, row in enumerate(rows):
            if peaks and dominates(rows[peaks[-1]], row):
                continue
            if peaks and dominates(row, rows[peaks[-1]]):
                peaks.pop()
            peaks.append(i)
        ranked = sorted(peaks, key=lambda i: -int_of(found[i][0]))
        kept = sorted(ranked[i] for i in undominated([rows[i] for i in ranked]))
        return [tuple(map(self.trace.terms, found[i])) for i in kept]


class Symbolic(Asked):
    """A question whose numbers are symbols."""

    def __init__(
        self, kb: Records[Any], plan: Plan, values: Mapping[str, Value], rows: Sequence[Row], setting: Setting
    ):
        self.trace = Trace()
        self.batch, self.seq = self.trace.whole(setting.batch), self.trace.whole(setting.tokens)
        symbols: dict[str, Any] = {}
        reals = 0
        for name, value in values.items():
            symbols[name] = value
            if symbolic(value):
                symbols[name] = self.trace.whole(value)
            elif isinstance(value, float):
                symbols[name] = Real(self.trace, reals, value)
                reals += 1
        model, self.sizes = modelled(kb, plan), symbols
        self._put(plan, model, Sized(plan, model, symbols, rows, DTYPES[setting.dtype][0]), values, rows, setting)

    def flags(self, whole: bool = False) -> Flags:
        """Return the flags of the step, with symbols for the batch and the length."""
        return super().flags(whole)._replace(batch=self.batch, seq=self.seq)  # type: ignore[arg-type]

    def form(self, turn: Turn | None = None) -> Form:
        """Run the step, of one turn if there are several, and return its form."""
        step = self.step(turn)
        tape = step.tape = Moments(self.trace)
        loss = step.run()
        first, rest = tape.highest(), [tape.now, tape.flops]
        step.back(loss)
        rest += [tape.flops, self.program.holds, *self.own(step), step.shards]
        terms = [self.trace.terms(value) for value in rest]
        shapes = {
            i: [tuple(map(self.trace.terms, shape)) for shape in several] for i, several in self.parts(step).items()
        }
        return Form(self.trace, first, tape.highest(), terms, shapes, self.ledger(step))


class Sized(Program):
    """A program in which symbols are the sizes of the method's tensors."""

    def __init__(self, plan: Plan, model: Model, values: Mapping[str, Any], rows: Sequence[Row], width: int):
        self.values = values
        self.args: dict[int, list[tuple[Any, ...]]] = {}
        super().__init__(plan, model, values, rows, width)

    def shape(self, row: Row, spot: Spot) -> Sequence[int] | None:
        """Return the declared shape, computed with symbols."""
        piece = row.piece
        if spot.shape is not None or not dense(row):
            return self.plan.shape(row, spot)
        key = id(piece.own)
        if key not in self.args:
            self.args[key] = self.plan.arguments({**self.values, **piece.own})
        found = piece.measure.shape(self.plan.common, piece.group.dims, *self.args[key][piece.part])
        return [int(size) if isinstance(size, float) else size for size in found]


class Form:
    """The totals of a step as polynomials, the highest moments of both passes as candidates, and its conditions."""

    def __init__(
        self, trace: Trace, first: Sequence[tuple[Terms, ...]], second: Sequence[tuple[Terms, ...]],
        rest: Sequence[Terms], parts: Mapping[int, Sequence[tuple[Terms, ...]]], ledger: Ledger,
    ):  # fmt: skip
        self.ledger = ledger
        everything = [terms for moment in (*first, *second) for terms in moment]
        everything += [terms for shapes in parts.values() for shape in shapes for terms in shape]
        compiled = self.compiled = Compiled(trace, [*everything, *rest])
        row = compiled.row
        self.passes = [
            ([row(m[0]) for m in moments], [[row(part) for part in m[1:]] for m in moments])
            for moments in (first, second)
        ]
        self.rest = [row(terms) for terms in rest]
        self.parts = {i: [[row(terms) for terms in shape] for shape in shapes] for i, shapes in parts.items()}

    def __call__(self, question: Question) -> Totals | None:
        """Return the totals for other numbers, or None if a condition does not hold."""
        values = self.compiled.values(question.numbers, question.reals)
        if values is None:
            return None
        peaks = []
        for moments, parts in self.passes:
            heights = [sum(map(mul, row, values)) for row in moments]
            peak = max(heights)
            peaks.append((peak, *[at(row, values) for row in parts[heights.index(peak)]]))
        kept, forward, flops, holds, states, updating, shards = (at(row, values) for row in self.rest)
        sizes = {
            i: [tuple([at(row, values) for row in shape]) for shape in shapes] for i, shapes in self.parts.items()
        }
        return Totals(peaks[0], kept, forward, peaks[1], flops, holds, states, updating, shards, sizes)


def derived(
    kb: Records[Any], plan: Plan, values: Mapping[str, Value], rows: Sequence[Row], setting: Setting,
    turn: Turn | None = None,
) -> Form:  # fmt: skip
    """Derive the form of a question. Raises UsageError and DataError as the step itself does."""
    return Symbolic(kb, plan, values, rows, setting).form(turn)
