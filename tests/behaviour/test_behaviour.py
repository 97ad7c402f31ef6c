"""The behaviour suite: every check, on every method, on every family it acts on, with two settings."""

from __future__ import annotations

import pytest

from peftonomy import UsageError

from . import checks, tiny
from .trial import KB, trials, with_module
from .twins import TWINS, Twin

pytestmark = pytest.mark.torch
NOWHERE_TO_ACT = [(m, f) for m in ("bitfit", "u_bitfit", "s_bitfit") for f in ("llama", "t5")]
NOWHERE_TO_ACT += [("coda", f) for f in ("gpt2", "llama")]
NOWHERE_TO_ACT += [("trainable_tokens", "vit")]
"""Where a method finds nothing in a family at all: families without biases, without an encoder, without tokens."""
PAIRS = [(m, f) for m in KB.methods for f in tiny.CONFIGS if (m, f) not in NOWHERE_TO_ACT]


@pytest.mark.parametrize("check", checks.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize(("method", "family"), PAIRS)
def test_method(method: str, family: str, check: checks.Check) -> None:
    for trial in trials(method, family):
        check(trial)


@pytest.mark.parametrize(("method", "family"), NOWHERE_TO_ACT)
def test_nowhere_to_act_is_still_true(method: str, family: str) -> None:
    with pytest.raises(UsageError, match="nothing to act on"):
        trials(method, family)


@pytest.mark.parametrize("twin", TWINS, ids=str)
def test_check_rejects(twin: Twin) -> None:
    trial = with_module(trials(twin.method, twin.family)[0], twin.module)
    with pytest.raises(AssertionError, match=twin.says):
        twin.check(trial)


def test_every_check_has_a_twin() -> None:
    assert {twin.check for twin in TWINS} == set(checks.CHECKS)
