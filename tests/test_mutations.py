"""A sample of `python -m tests.mutations`: no mutant of an entry goes unnoticed."""

from __future__ import annotations

import random

import pytest

from peftonomy.conformance import trial

from . import mutations

pytestmark = pytest.mark.torch
SAMPLE = 40


def test_a_sample_of_mutants_is_caught() -> None:
    everything = [mutant for key in trial.KB for mutant in mutations.mutants(trial.KB[key])]
    chosen = random.Random(1).sample(everything, SAMPLE)
    assert [str(m) for m in mutations.survivors(chosen)] == []


@pytest.mark.slow
def test_an_entry_as_it_stands_survives() -> None:
    """The other side: what is not changed must not be rejected, or every mutant would be caught for nothing."""
    method = trial.KB["lora"]
    assert mutations.caught(mutations.Mutant(method.id, "A", "nothing", method.entry)) == ""
