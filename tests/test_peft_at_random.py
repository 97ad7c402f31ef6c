"""Whatever peft is asked at random, we give the same counts, or refuse an argument by its name."""

from __future__ import annotations

import random

import pytest

from tests import peft_pairs
from tests.peft_random import cases, drawn, outcomes, theirs

from .grid import WHOLE

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore"),      # of peft, of transformers, of torch: the models are odd on purpose
]
SEED, CHUNK = 20, 50
CASES = 10_000 if WHOLE else 200
PAIRS = 4_000 if WHOLE else 60


@pytest.mark.parametrize("start", range(0, CASES, CHUNK))
def test_at_random(start: int) -> None:
    """Equal, or refused by name, as the user writes the configuration and as peft saves it."""
    wrong = [
        (name, form, outcome.detail, outcome.ours, outcome.theirs, case.family, case.config)
        for name, case, answer in cases(SEED, CHUNK, start=start)
        for form, outcome in outcomes(case, answer).items()
        if outcome.word == "wrong"
    ]
    assert wrong == []


def test_pairs_of_options() -> None:
    """Two options of the most used types on each kind of module; all of them with `python -m tests.peft_pairs`."""
    wrong = [
        (name, form, outcome.detail, outcome.ours, outcome.theirs)
        for name, case in random.Random(SEED).sample([*peft_pairs.cases()], PAIRS)
        for form, outcome in outcomes(case, theirs(case)).items()
        if outcome.word == "wrong"
    ]
    assert wrong == []


def test_most_are_equal() -> None:
    drawn_cases = cases(SEED, 100, start=10_000)
    words = [outcome.word for _, case, answer in drawn_cases for outcome in outcomes(case, answer).values()]
    assert words.count("equal") > 0.85 * (words.count("equal") + words.count("refused"))


def test_a_case_is_always_the_same() -> None:
    assert drawn(random.Random("1:1")) == drawn(random.Random("1:1"))
