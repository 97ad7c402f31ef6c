"""A sample of `python -m tests.mutations`: no mutant of an entry goes unnoticed."""

from __future__ import annotations

import random

import pytest

from peftonomy import Method, UsageError
from peftonomy.conformance import checks, trial
from peftonomy.schema.method import MethodEntry

from . import mutations
from .knowledge import another

pytestmark = pytest.mark.torch
SAMPLE = 40


def test_a_sample_of_mutants_is_caught() -> None:
    everything = [mutant for key in trial.KB for mutant in mutations.mutants(trial.KB[key])]
    chosen = random.Random(1).sample(everything, SAMPLE)
    assert [str(m) for m in mutations.survivors(chosen)] == []


def test_operations_of_a_method_that_trains_nothing_are_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check of memory has no step to compare with there, and still runs them."""
    method, kb = trial.KB["pem_arithmetic"], another()
    written = method.entry.model_dump(by_alias=True, exclude_unset=True)
    written["memory"] = {"operations": [{"per": "site", "like": "low_rank"}]}
    kb.methods.held[method.id] = Method(kb, MethodEntry(**written), method.document)
    checks.memory(trial.trials(method.id, "bert")[0])
    for module in (trial, checks):
        monkeypatch.setattr(module, "KB", kb)
    with pytest.raises(UsageError, match="unknown name dropout"):
        checks.memory(trial.trials(method.id, "bert")[0])


@pytest.mark.slow
def test_an_entry_as_it_stands_survives() -> None:
    """The other side: what is not changed must not be rejected, or every mutant would be caught for nothing."""
    method = trial.KB["lora"]
    assert mutations.caught(mutations.Mutant(method.id, "A", "nothing", method.entry)) == ""
