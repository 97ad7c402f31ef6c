"""Answer questions about training memory: from a closed form if one applies, else by running the step."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..catalogue.records import Records
from ..costs.plan import EXACT
from ..errors import DataError, FormulaError, UsageError
from ..schema.base import Value
from . import ranks
from .asked import Asked, Ledger, Totals, billed
from .forms import Form, Question, derived
from .program import Turn
from .ranks import RankAsked
from .setting import Memory, Setting
from .sharding import Sharding, checked

if TYPE_CHECKING:
    from ..costs.plan import Plan, Row

__all__ = ["Asked", "Training", "check_length", "remembered"]

MOST_KINDS, MOST_FORMS = 64, 8
"""How many kinds of questions a plan remembers, and how many forms of each."""


class Training:
    """A method on a model, for questions about its training steps. It remembers what it derives for one of them.

    sharding: the GPUs that share the step; None if there is one.
    """

    def __init__(self, kb: Records[Any], plan: Plan, sharding: Sharding | None = None):
        self.kb, self.plan, self.sharding = kb, plan, sharding

    def memory(self, given: Mapping[str, Any], setting: Setting) -> Memory:
        """Return the memory of a step with these hyperparameters. Raises UsageError."""
        return remembered(self.kb, self.plan, given, setting, self.sharding)

    def once(self, given: Mapping[str, Any], setting: Setting) -> Memory:
        """Return the same by running the step of one GPU, which is quicker for a question that is not asked again."""
        check_length(self.plan, self.plan.values(given), setting)
        with _valued(self.plan):
            return Asked(self.kb, self.plan, given, setting).memory()

    def shared(self, sharding: Sharding | None) -> Training:
        """Return the same training on several GPUs, or on one."""
        return Training(self.kb, self.plan, sharding)


@contextlib.contextmanager
def _valued(plan: Plan) -> Iterator[None]:
    """Raise UsageError for a formula that has no value on the model."""
    try:
        yield
    except FormulaError as error:
        raise UsageError(f"{plan.id} on {plan.inventory.backbone.id}: {error}") from None


def remembered(
    kb: Records[Any], plan: Plan, given: Mapping[str, Any], setting: Setting, sharding: Sharding | None = None
) -> Memory:
    """Return the memory of a step with these hyperparameters. Raises UsageError."""
    with _valued(plan):
        return _remembered(kb, plan, given, setting, sharding)


def _remembered(
    kb: Records[Any], plan: Plan, given: Mapping[str, Any], setting: Setting, sharding: Sharding | None = None
) -> Memory:
    """Return the memory of a step with these hyperparameters.

    The first question of its kind derives a form, which then answers similar questions. If no form applies, a new one
    is derived or the step is run.
    """
    values = plan.values(given)
    check_length(plan, values, setting)
    rows = plan.each(values)
    if sharding is not None:
        checked(setting, sharding)
    recipes = [part.entry.memory for part in plan.parts if part.entry.memory is not None]
    if sharding is not None and any(recipe.forward_only or recipe.turns is not None for recipe in recipes):
        raise UsageError(f"gpus: found {sharding.gpus}; the recipe of {plan.id} is covered on one GPU only")
    if not any(recipe.turns is not None for recipe in recipes):
        return _in_turn(kb, plan, given, values, rows, setting, sharding, None)
    turns = Asked(kb, plan, given, setting).turns()
    answers = (_in_turn(kb, plan, given, values, rows, setting, None, turn) for turn in turns)
    return max(answers, key=lambda memory: memory.peak)


def _in_turn(
    kb: Records[Any], plan: Plan, given: Mapping[str, Any], values: Mapping[str, Value], rows: Sequence[Row],
    setting: Setting, sharding: Sharding | None, turn: Turn | None,
) -> Memory:  # fmt: skip
    """Return the memory of a step in one turn; None is that of a method without turns."""
    ranked = sharding if sharding is not None and sharding.shard == "fsdp" else None
    question = Question.of(setting, values, rows, ranked, turn)
    forms = _forms(plan, question)
    found = _applied(forms, question)
    if found is None and len(forms) < MOST_FORMS:
        with contextlib.suppress(UsageError, DataError):  # which the step raises too, about plain numbers
            forms.append(
                derived(kb, plan, values, rows, setting, turn) if ranked is None
                else ranks.derived(kb, plan, values, rows, setting, ranked)
            )  # fmt: skip
            found = _applied(forms[-1:], question)
    if found is not None:
        totals, ledger = found
    else:
        asked = Asked(kb, plan, given, setting) if ranked is None else RankAsked(kb, plan, given, setting, ranked)
        totals, ledger = asked.answer(turn)
    return billed(plan, setting, values, rows, totals, ledger, sharding)


def check_length(plan: Plan, values: Mapping[str, Value], setting: Setting) -> None:
    """Raise UsageError if the tokens, with the positions that the method adds, are more than the model has.

    A model of text needs a length, and one that reads no tokens has its own.
    """
    backbone = plan.inventory.backbone
    setting.check(plan.inventory)
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
            try:
                found = positions({**plan.common, **dict(zip(names, arguments[i], strict=True))})
            except FormulaError as error:
                raise UsageError(f"{plan.id}: its positions have no value here: {error}") from None
            if not 0 <= found <= EXACT:
                raise UsageError(f"{plan.id}: found {found} positions; expected a count from 0 to 2**53")
            more += int(found)
    limit = plan.common["max_positions"]
    if limit and setting.seq is not None and setting.seq + more > limit:
        prompt = f" with {more:,} more" if more else ""
        raise UsageError(f"seq: found {setting.seq:,}{prompt}; {backbone.id} has {limit:,} positions")


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
