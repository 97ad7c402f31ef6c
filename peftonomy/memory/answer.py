"""The memory of a training step: closed forms that are derived once, and the step itself where there is none yet."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..catalogue.records import Records
from .asked import Asked, billed
from .forms import Form, Question, derived
from .model import Memory, Setting

if TYPE_CHECKING:
    from ..costs.plan import Plan

__all__ = ["Asked", "remembered"]

MOST_KINDS, MOST_FORMS = 64, 8
"""How many kinds of questions a plan remembers, and how many forms of each."""


def remembered(kb: Records[Any], plan: Plan, given: Mapping[str, Any], setting: Setting) -> Memory:
    """The memory of a step with these hyperparameters, by operations. Raises UsageError.

    The first question of its kind is answered by running the step. The second one derives a form, which answers from
    then on; a question to which no form applies gets another one, or is run.
    """
    values = plan.values(given)
    rows = plan.each(values)
    question = Question.of(setting, values, rows)
    kinds: OrderedDict[Any, list[Form]] = plan.memo.setdefault("forms", OrderedDict())
    forms = kinds.get(question.kind)
    if forms is None:
        found = Asked(kb, plan, given, setting).memory()
        kinds[question.kind] = []
        if len(kinds) > MOST_KINDS:
            kinds.popitem(last=False)
        return found
    for form in forms:
        totals = form(question)
        if totals is not None:
            return billed(plan, setting, values, rows, totals, form.ledger)
    if len(forms) == MOST_FORMS:
        return Asked(kb, plan, given, setting).memory()
    forms.append(derived(kb, plan, values, rows, setting))
    totals = forms[-1](question)
    assert totals is not None  # a form applies to its own example
    return billed(plan, setting, values, rows, totals, forms[-1].ledger)
