"""Closed forms of a step, derived: one run on symbols answers all questions that take the same decisions.

A form is derived by running the unchanged step on symbols (see `symbols`) for the batch, the length and the numeric
hyperparameters. It holds for one plan, one choice of all other hyperparameters and settings, and the same rows of the
plan. A question whose numbers lead to other decisions, as another batch than 1 may, gets a form of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import mul
from typing import TYPE_CHECKING, Any, NamedTuple

from ..catalogue.records import Records
from ..costs.layout import Spot
from ..schema.method import Value
from .asked import Asked, Ledger, Totals, modelled
from .machine import Flags
from .model import Setting
from .program import Model, Program
from .step import Step
from .symbols import Compiled, Real, Terms, Trace, at, dominates, int_of, terms_of
from .tape import Tape

if TYPE_CHECKING:
    from ..costs.plan import Plan, Row

__all__ = ["Form", "Question", "derived"]

Moment = tuple[Terms, Terms, Terms]
"""Bytes alive at a moment, those of them that the forward pass left, and gradients of parameters among them."""


class Question(NamedTuple):
    """A setting with hyperparameters, sorted by how a form takes them.

    kind: what a form is derived for. numbers: the batch, the length, and whole hyperparameters from 1 on. reals:
    hyperparameters that are not whole.
    """

    kind: tuple[Any, ...]
    numbers: tuple[int, ...]
    reals: tuple[float, ...]

    @staticmethod
    def of(setting: Setting, values: Mapping[str, Value], rows: Sequence[Row]) -> Question:
        """Sort a question's parts."""
        numbers, reals, others = [setting.batch, setting.seq], list[float](), list[Any]()
        for value in values.values():
            if symbolic(value):
                numbers.append(value)
            elif isinstance(value, float):
                reals.append(value)
            else:
                others.append(tuple(value) if isinstance(value, list) else value)
            others.append(type(value))
        same = [(id(r.piece), r.copies, r.layers, r.learns, None if dense(r) else r.count) for r in rows]
        kind = (setting.dtype, setting.attention, setting.checkpointing, *others, *same)
        return Question(kind, tuple(numbers), tuple(reals))


def symbolic(value: Any) -> bool:
    """Whether a form is derived for all values of a hyperparameter like this one."""
    return type(value) is int and value > 0


def dense(row: Row) -> bool:
    """Whether the sizes of a row's tensors come from a declared shape."""
    return row.piece.tensor.shape is not None and not row.roles


class Moments(Tape):
    """A tape that notes all moments which may be the highest."""

    def __init__(self) -> None:
        super().__init__()
        self.moments: list[Moment] = []

    def see(self, moment: Any) -> None:
        """Note a moment; of it and the one before, the lower one is left out."""
        terms = terms_of(moment)
        if self.moments:
            last = self.moments[-1][0]
            if dominates(last, terms):
                return
            if dominates(terms, last):
                self.moments.pop()
        self.moments.append((terms, terms_of(self.left), terms_of(self.grads)))

    def highest(self) -> list[Moment]:
        """The moments that no other one is always as high as, in their order; then none are noted."""
        found, self.moments = self.moments, []
        example = self.examples
        values = [sum(c * example[k] for k, c in terms.items()) for terms, _, _ in found]
        kept: list[int] = []
        for i in sorted(range(len(found)), key=lambda i: -values[i]):
            if not any(dominates(found[k][0], found[i][0]) for k in kept):
                kept.append(i)
        return [found[i] for i in sorted(kept)]

    examples: Sequence[int] = ()


class Symbolic(Asked):
    """A question whose numbers are symbols."""

    def __init__(self, kb: Records[Any], plan: Plan, values: Mapping[str, Value], rows: Sequence[Row], setting: Setting):
        self.trace = Trace()
        self.batch, self.seq = self.trace.whole(setting.batch), self.trace.whole(setting.seq)
        symbols: dict[str, Any] = {}
        reals = 0
        for name, value in values.items():
            symbols[name] = value
            if symbolic(value):
                symbols[name] = self.trace.whole(int_of(value))
            elif isinstance(value, float):
                symbols[name] = Real(self.trace, reals, value)
                reals += 1
        model = modelled(kb, plan)
        self._put(plan, model, Sized(plan, model, symbols, rows), values, rows, setting)

    def flags(self, whole: bool = False) -> Flags:
        """How the step is run, with symbols."""
        return super().flags(whole)._replace(batch=self.batch, seq=self.seq)  # type: ignore[arg-type]

    def form(self) -> Form:
        """Run the step."""
        step = Step(self.program, self.flags())
        tape = step.tape = Moments()
        tape.examples = self.trace.examples
        loss = step.run()
        first, kept, forward = tape.highest(), terms_of(tape.now), terms_of(tape.flops)
        step.back(loss)
        rest = (kept, forward, terms_of(tape.flops), terms_of(self.program.holds))
        return Form(self.trace, first, tape.highest(), rest, self.ledger(step))


class Sized(Program):
    """A program of which the method's tensors have symbols as sizes."""

    def __init__(self, plan: Plan, model: Model, values: Mapping[str, Any], rows: Sequence[Row]):
        self.values = values
        self.args: dict[int, list[tuple[Any, ...]]] = {}
        super().__init__(plan, model, values, rows)

    def shape(self, row: Row, spot: Spot) -> Sequence[int] | None:
        """The declared shape, over the symbols."""
        piece = row.piece
        if spot.shape is not None or not dense(row):
            return self.plan.shape(row, spot)
        key = id(piece.own)
        if key not in self.args:
            self.args[key] = self.plan.arguments({**self.values, **piece.own})
        found = piece.measure.shape(self.plan.common, piece.places.dims, *self.args[key][piece.part])
        return [int(size) if isinstance(size, float) else size for size in found]


class Form:
    """The totals of a step as polynomials, the highest moments of both passes as candidates, and its conditions."""

    def __init__(
        self, trace: Trace, first: Sequence[Moment], second: Sequence[Moment], rest: Sequence[Terms], ledger: Ledger
    ):
        self.ledger = ledger
        everything = [terms for moment in (*first, *second) for terms in moment]
        compiled = self.compiled = Compiled(trace, [*everything, *rest])
        row = compiled.row
        self.passes = [
            ([row(m[0]) for m in moments], [(row(m[1]), row(m[2])) for m in moments]) for moments in (first, second)
        ]
        self.rest = [row(terms) for terms in rest]

    def __call__(self, question: Question) -> Totals | None:
        """The totals for other numbers; None where a condition does not hold."""
        values = self.compiled.values(question.numbers, question.reals)
        if values is None:
            return None
        peaks = []
        for moments, parts in self.passes:
            heights = [sum(map(mul, row, values)) for row in moments]
            peak = max(heights)
            left, grads = parts[heights.index(peak)]
            peaks.append((peak, at(left, values), at(grads, values)))
        kept, forward, flops, holds = (at(row, values) for row in self.rest)
        return Totals(peaks[0], kept, forward, peaks[1], flops, holds)


def derived(kb: Records[Any], plan: Plan, values: Mapping[str, Value], rows: Sequence[Row], setting: Setting) -> Form:
    """Derive the form of a question. Raises UsageError and DataError as the step itself does."""
    return Symbolic(kb, plan, values, rows, setting).form()
