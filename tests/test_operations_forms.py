"""Closed forms that are derived from operations: equal to the step itself, to the byte, or not used."""

from __future__ import annotations

import operator
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftonomy import DataError, UsageError
from peftonomy.costs.plan import Plan
from peftonomy.memory import answer, forms
from peftonomy.memory.answer import Asked, remembered
from peftonomy.memory.forms import Form, Question
from peftonomy.memory.setting import DTYPES, OPTIMIZERS, QUANTIZED, Setting
from peftonomy.memory.symbols import Compiled, Real, Trace, at, dominates, int_of, undominated
from tests.grid import WHOLE
from tests.operations_kit import Case, length
from tests.test_operations import FAMILIES, HOMES, KB, METHODS, PLAIN

EVERYWHERE = ("full_fine_tuning", "lora")
SAMPLED = 2
"""Methods besides these, drawn by the family's name, that are tried on each family."""
KINDS, QUESTIONS = 2 if WHOLE else 1, 3
"""How many settings are drawn for a plan, and how many questions for each."""


def planned(family: str, method: str, **config: Any) -> Plan | None:
    """A plan of its own, which remembers nothing yet; None where the method finds nothing to act on."""
    case = Case(family, method, config=config)
    try:
        return KB[method].plan(KB.backbone(case.model), task=case.trains)
    except UsageError:
        return None


def plans() -> Iterator[tuple[str, str]]:
    """Every family with some methods, and every method on a family."""
    for family in FAMILIES:
        for method in (*EVERYWHERE, *random.Random(family).sample(METHODS, SAMPLED)):
            yield family, method
    for method in (*METHODS, *PLAIN):
        yield random.Random(method).choice(HOMES), method


def hyperparameters(plan: Plan, rng: random.Random) -> dict[str, Any]:
    """Random values for some of the numeric and logical hyperparameters."""
    drawn: dict[str, Any] = {}
    for name, spec in plan.entry.hyperparameters.items():
        if spec.type == "int":
            drawn[name] = rng.choice([1, 2, 3, 8, rng.randint(1, 300)])
        elif spec.type == "float" and rng.random() < 0.5:
            drawn[name] = rng.choice([0.0, rng.random()])
        elif spec.type == "bool":
            drawn[name] = rng.random() < 0.5
    return drawn


def questions(plan: Plan, rng: random.Random) -> Iterator[tuple[dict[str, Any], Setting]]:
    """Random questions, some of them of one kind."""
    for _ in range(KINDS):
        dtype, checkpointing = rng.choice([*DTYPES]), rng.random() < 0.5
        attention, quantized = rng.choice(["eager", "sdpa"]), rng.choice([None, None, *QUANTIZED])
        for _ in range(QUESTIONS):
            batch, seq = rng.choice([1, 2, 3, rng.randint(1, 64)]), rng.choice([1, 2, 7, rng.randint(1, 3000)])
            seq = length(plan.inventory, seq)
            optimizer = rng.choice([*OPTIMIZERS])
            yield (
                hyperparameters(plan, rng),
                Setting(batch, seq, dtype, optimizer, checkpointing, attention, quantized),
            )


def ran_step(plan: Plan, given: dict[str, Any], setting: Setting) -> Any:
    """The answer of a step that is run, after the check that every answer needs."""
    answer.check_length(plan, plan.values(given), setting)
    return Asked(KB, plan, given, setting).memory()


def said(ask: Callable[[], Any]) -> Any:
    """An answer, or the message of its refusal."""
    try:
        return ask()
    except (UsageError, DataError) as error:
        return str(error)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "method"), sorted(set(plans())))
def test_forms_are_the_step(family: str, method: str) -> None:
    plan = planned(family, method)
    if plan is None:
        assert method not in EVERYWHERE
        return
    for given_, setting in questions(plan, random.Random(f"{family} {method}")):
        ran = said(lambda g=given_, s=setting: ran_step(plan, g, s))  # type: ignore[misc]
        assert said(lambda g=given_, s=setting: remembered(KB, plan, g, s)) == ran, (given_, setting)  # type: ignore[misc]


def lora(family: str = "llama") -> Plan:
    positions = {"max_position_embeddings": 10**9} if family == "llama" else {}
    plan = planned(family, "lora", **positions)
    assert plan is not None
    return plan


def form(plan: Plan, given_: dict[str, Any], setting: Setting) -> Form:
    values = plan.values(given_)
    return forms.derived(KB, plan, values, plan.each(values), setting)


def question(plan: Plan, given_: dict[str, Any], setting: Setting) -> Question:
    values = plan.values(given_)
    return Question.of(setting, values, plan.each(values))


def test_one_form_answers_for_other_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other batches, lengths, ranks, optimizers and quantisations need no run of their own."""
    plan = lora()
    remembered(KB, plan, {"r": 4}, Setting(2, 64))
    asked = [
        ({"r": r}, Setting(batch, seq, "bfloat16", optimizer, quantized=quantized))
        for r, batch, seq, optimizer, quantized in [
            (1, 3, 100, "adamw", None), (8, 2, 512, "adafactor", None), (16, 64, 2048, "sgd", "nf4"),
        ]
    ]  # fmt: skip
    ran = [ran_step(plan, g, s) for g, s in asked]

    def refuse(*_: Any) -> Any:
        raise AssertionError("the step was run")

    monkeypatch.setattr(answer, "derived", refuse)
    monkeypatch.setattr(answer, "Asked", refuse)
    assert [remembered(KB, plan, g, s) for g, s in asked] == ran
    with pytest.raises(AssertionError, match="the step was run"):  # dropout keeps a mask: another form
        remembered(KB, plan, {"r": 4, "dropout": 0.1}, Setting(2, 64))


@pytest.mark.parametrize(
    ("given_", "batch", "seq", "applies"),
    [
        ({"r": 3}, 5, 40, True),
        ({"r": 3, "alpha": 2.5}, 5, 40, True),
        ({"r": 3}, 1, 40, False),
        ({"r": 3, "dropout": 0.5}, 5, 40, False),
        ({"r": 30_000}, 2, 2, False),  # the layers between grow by more gradients than they let go of
    ],
)
def test_a_form_applies_where_its_conditions_hold(given_: dict[str, Any], batch: int, seq: int, applies: bool) -> None:
    plan = lora()
    setting = Setting(2, 8, "float32", attention="eager")
    found = form(plan, {"r": 4}, setting)(question(plan, given_, Setting(batch, seq, "float32", attention="eager")))
    assert (found is not None) == applies


def test_without_conditions_a_form_would_be_wrong() -> None:
    """The broken twin."""
    plan = lora()
    one, two = (Setting(batch, 8, "float32", attention="eager") for batch in (1, 2))
    right, other = form(plan, {}, one)(question(plan, {}, one)), form(plan, {}, two)
    assert other(question(plan, {}, one)) is None
    other.compiled.conditions = []
    wrong = other(question(plan, {}, one))
    assert right is not None
    assert wrong is not None
    assert right.kept != wrong.kept


def test_the_step_answers_where_forms_end(monkeypatch: pytest.MonkeyPatch) -> None:
    plan, setting = lora("roberta"), Setting(2, 8, "float32")
    monkeypatch.setattr(answer, "MOST_FORMS", 0)
    assert remembered(KB, plan, {}, setting) == Asked(KB, plan, {}, setting).memory()
    assert [*plan.memo["forms"].values()] == [[]]


def test_the_last_kinds_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = lora("roberta")
    monkeypatch.setattr(answer, "MOST_KINDS", 2)
    for dtype in ("float32", "bfloat16", "float16", "mixed"):
        remembered(KB, plan, {}, Setting(2, 8, dtype))
    assert [(kind[1:4], len(found)) for kind, found in plan.memo["forms"].items()] == [
        ((2, 2, False), 1), ((2, 4, True), 1),
    ]  # fmt: skip


@pytest.mark.parametrize("tokens", [2**22, 10**9])
def test_what_is_too_large_is_refused(tokens: int) -> None:
    plan, setting = lora(), Setting(tokens, tokens)
    ran = said(lambda: Asked(KB, plan, {}, setting).memory())
    assert "more than 2**53 bytes" in ran
    assert said(lambda: remembered(KB, plan, {}, setting)) == ran


# Symbols

Expression = Any
"""A number of the question, by its index; a constant, in a tuple of one; or an operation and two expressions."""
OPERATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "add": operator.add, "sub": operator.sub, "mul": operator.mul, "floordiv": operator.floordiv, "mod": operator.mod,
    "max": max, "min": min, "less": lambda a, b: a if a < b else 2 * b, "same": lambda a, b: 7 if a == b else a,
    "quotient": lambda a, b: int(a / b), "either": lambda a, b: a or b, "size": lambda a, b: abs(a - b),
}  # fmt: skip
EXPRESSIONS = st.recursive(
    st.integers(0, 2) | st.tuples(st.integers(-5, 40)),
    lambda inner: st.tuples(st.sampled_from([*OPERATIONS]), inner, inner),
    max_leaves=12,
)
NUMBERS = st.tuples(*[st.integers(1, 60)] * 3)


def computed(expression: Expression, numbers: Any) -> Any:
    if isinstance(expression, int):
        return numbers[expression]
    if len(expression) == 1:
        return expression[0]
    name, a, b = expression
    return OPERATIONS[name](computed(a, numbers), computed(b, numbers))


@settings(max_examples=600, deadline=None)
@given(EXPRESSIONS, NUMBERS, st.lists(NUMBERS, min_size=1, max_size=6))
def test_a_polynomial_is_the_expression(expression: Expression, example: Any, others: list[Any]) -> None:
    trace = Trace()
    try:
        result = computed(expression, [trace.whole(number) for number in example])
        terms = trace.terms(result)
    except (ZeroDivisionError, UsageError):
        return
    assert int_of(result) == computed(expression, example)
    compiled = Compiled(trace, [terms])
    row = compiled.row(terms)
    values = compiled.values(example, [])
    assert values is not None, "a form applies to its own example"
    assert at(row, values) == computed(expression, example)
    for numbers in others:
        values = compiled.values(numbers, [])
        if values is not None:
            assert at(row, values) == computed(expression, numbers)


@given(st.lists(st.lists(st.integers(-(2**70), 2**70) | st.integers(-2, 2), min_size=3, max_size=3), max_size=12))
def test_rows_are_compared_at_once_as_one_by_one(rows: list[list[int]]) -> None:
    kept: list[int] = []
    for i, row in enumerate(rows):
        if not any(dominates(rows[k], row) for k in kept):
            kept.append(i)
    assert undominated(rows) == kept


def test_sizes_that_are_too_large_for_a_polynomial() -> None:
    trace = Trace()
    with pytest.raises(UsageError, match="2\\*\\*63"):
        trace.terms(trace.whole(2) * 2**64)


@pytest.mark.parametrize(
    ("decide", "other", "applies"),
    [
        (lambda p: p > 0, 0.9, True), (lambda p: p > 0, 0.0, False), (lambda p: p == 0.5, 0.6, False),
        (lambda p: not p, 0.0, False), (lambda p: p <= 1, 0.7, True), (lambda p: 2 * p, 0.6, False),
        (lambda p: 1 - p, 0.5, True), (lambda p: int(p * 8), 0.51, False), (lambda p: p >= 0 and p < 1, 0.2, True),
        (lambda p: p != 0, 0.2, True), (float, 0.2, False), (abs, 0.2, False), (lambda p: -p, 0.2, False),
        (lambda p: {p}, 0.2, False),
    ],
)  # fmt: skip
def test_decisions_about_a_real_number(decide: Callable[[Any], Any], other: float, applies: bool) -> None:
    trace = Trace()
    assert decide(Real(trace, 0, 0.5)) == decide(0.5)
    compiled = Compiled(trace, [])
    assert compiled.values([], [0.5]) == [1]
    assert (compiled.values([], [other]) is not None) == applies
