"""Answer questions about training memory: from a closed form if one applies, else by running the step."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..catalogue.records import Records
from ..costs.plan import EXACT
from ..errors import DataError, UsageError
from ..schema.base import Value
from .asked import Asked, Ledger, Totals, billed
from .forms import Form, Question, derived
from .program import Turn
from .setting import Memory, Setting

if TYPE_CHECKING:
    from ..costs.plan import Plan, Row

__all__ = ["Asked", "Training", "check_length", "remembered"]

MOST_KINDS, MOST_FORMS = 64, 8
"""How many kinds of questions a plan remembers, and how many forms of each."""


class Training:
    """A method on a model, for questions about its training steps. It remembers what it derives for one of them."""

    def __init__(self, kb: Records[Any], plan: Plan):
        self.kb, self.plan = kb, plan

    def memory(self, given: Mapping[str, Any], setting: Setting) -> Memory:
        """Return the memory of a step with these hyperparameters. Raises UsageError."""
        return remembered(self.kb, self.plan, given, setting)


def remembered(kb: Records[Any], plan: Plan, given: Mapping[str, Any], setting: Setting) -> Memory:
    """Return the memory of a step with these hyperparameters. Raises UsageError.

    The first question of its kind derives a form, which then answers similar questions. If no form applies, a new one
    is derived or the step is run.
    """
    values = plan.values(given)
    check_length(plan, values, setting)
    rows = plan.each(values)
    if not any(part.entry.memory is not None and part.entry.memory.turns is not None for part in plan.parts):
        return _in_turn(kb, plan, given, values, rows, setting, None)
    turns = Asked(kb, plan, given, setting).turns()
    answers = (_in_turn(kb, plan, given, values, rows, setting, turn) for turn in turns)
    return max(answers, key=lambda memory: memory.peak)


def _in_turn(
    kb: Records[Any], plan: Plan, given: Mapping[str, Any], values: Mapping[str, Value], rows: Sequence[Row],
    setting: Setting, turn: Turn | None,
) -> Memory:  # fmt: skip
    """Return the memory of a step in one turn; None is that of a method without turns."""
    question = Question.of(setting, values, rows, turn)
    forms = _forms(plan, question)
    found = _applied(forms, question)
    if found is None and len(forms) < MOST_FORMS:
        with contextlib.suppress(UsageError, DataError):  # which the step raises too, about plain numbers
            forms.append(derived(kb, plan, values, rows, setting, turn))
            found = _applied(forms[-1:], question)
    if found is not None:
        totals, ledger = found
        return billed(plan, setting, values, rows, totals, ledger)
    return Asked(kb, plan, given, setting).answer(turn)


def check_length(plan: Plan, values: Mapping[str, Value], setting: Setting) -> None:
    """Raise UsageError if the tokens, with the positions that the method adds, are more than the model has."""
    added = plan.memo.get("positions")
    if added is None:
        added = plan.memo["positions"] = [
            (i, part.entry.memory.positions, tuple(part.entry.hyperparameters))
            for i, part in enumerate(plan.parts)
            if part.entry.memory is not None and part.entry.memory.positions.literal != 0
        ]
    more = 0
    if added:
        arguments = plan.arguments(dict(values))
        for i, positions, names in added:
            found = positions({**plan.common, **dict(zip(names, arguments[i], strict=True))})
            if not 0 <= found <= EXACT:
                raise UsageError(f"{plan.id}: found {found} positions; expected a count from 0 to 2**53")
            more += int(found)
    limit = plan.common["max_positions"]
    if limit and setting.seq + more > limit and any(m.role == "embed.token" for m in plan.inventory.modules):
        prompt = f" with {more:,} more" if more else ""
        raise UsageError(f"seq: found {setting.seq:,}{prompt}; {plan.inventory.backbone.id} has {limit:,} positions")


def _applied(forms: Sequence[Form], question: Question) -> tuple[Totals, Ledger] | None:
    """Return the totals of the first form whose conditions hold, with its ledger; None if there is none."""
    for form in forms:
        totals = form(question)
        if totals is not None:
            return totals, form.ledger
    return None


def _forms(plan: Plan, question: Question) -> list[Form]:
    """Return the forms for questions of one kind. Only the latest kinds are kept."""
    kinds: dict[Any, list[Form]] = plan.memo.setdefault("forms", {})
    forms = kinds.get(question.kind)
    if forms is None:
        if len(kinds) >= MOST_KINDS:
            del kinds[next(iter(kinds))]
        forms = kinds[question.kind] = []
    return forms
