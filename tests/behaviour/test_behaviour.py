"""The behaviour suite: every method on every family that it acts on, at two settings.

All checks but four run everywhere. Training, storing and the bytes of a step, with checkpointing too, take most of the
time and seldom depend on the family. Each method has them on two families, drawn by its id so that the methods together
cover all of them: on one at every setting, on the other at the first. With GRID=whole (`make grid`) it has them
everywhere.
"""

from __future__ import annotations

import functools
import importlib
import random

import pytest

from peftonomy import UsageError
from peftonomy.conformance import checks, tiny
from peftonomy.conformance.trial import KB, Trial, homes, trials, with_module
from tests.grid import WHOLE, drawn

from .twins import TWINS, Twin

pytestmark = pytest.mark.torch
NOWHERE = "nothing to act on"
"""Said where a family has none of a method's targets: no biases, no tokens, no encoder."""
REFUSED = ("requires", "finds none of its default targets")
"""Said where the implementation refuses the model too."""
METHODS, FAMILIES = list(KB.methods), list(tiny.CONFIGS)
PAIRS = [(m, f) for m in METHODS for f in FAMILIES]
MADE = [(m, f) for m in METHODS for f in homes(m) if f not in FAMILIES]
OTHERS = (*tiny.STAGED, *tiny.TOWERS)
SAMPLE = [(m, f) for f in OTHERS for m in drawn(f"layers of {f}", METHODS, 8) if (m, f) not in MADE]


@functools.cache
def settings(method: str, family: str) -> list[Trial] | str:
    """Return the settings of a method on a family, or why it does not run there."""
    try:
        return trials(method, family)
    except UsageError as error:
        return str(error)


def runs(method: str, family: str) -> bool:
    """Return whether a method runs on a family."""
    return not isinstance(settings(method, family), str)


LONG = frozenset({checks.training, checks.storing, checks.memory, checks.recomputing})
TRAINED_ON = 2


def trained_on(method: str) -> list[str]:
    """Draw the families on which a method trains and stores."""
    known = [family for family in homes(method) if runs(method, family)]
    chosen = random.Random(method).sample(known, min(TRAINED_ON, len(known)))
    staged = [family for other, family in SAMPLE if other == method and runs(method, family)]
    return [chosen[0], *(staged or chosen[1:])]


@pytest.mark.parametrize(("method", "family"), [*PAIRS, *MADE, *SAMPLE])
def test_method(method: str, family: str) -> None:
    """Run a method, or see that its implementation does not run either where its entry refuses the model."""
    found = settings(method, family)
    if isinstance(found, str):
        refused = any(reason in found for reason in REFUSED)
        assert refused or NOWHERE in found
        if refused and family in FAMILIES:
            specs = KB[method].entry.hyperparameters.items()
            needed = {name: 1 for name, spec in specs if spec.type == "int" and isinstance(spec.default, str)}
            with pytest.raises(UsageError):
                Trial(method, family, needed).make()
        return
    trained = trained_on(method)
    for number, trial in enumerate(found):
        everything = WHOLE or family == trained[0] or (family in trained and number == 0)
        for check in checks.CHECKS:
            if everything or check not in LONG:
                try:
                    check(trial)
                except AssertionError as error:
                    raise AssertionError(f"{check.__name__} at {trial.hyperparameters}: {error}") from error


def test_every_implementation_says_what_it_is() -> None:
    for key in KB:
        module = importlib.import_module(f"reference_impls.{key}")
        source = KB[key].entry.source.partition("#")[0]
        assert source in (module.__doc__ or ""), f"{key}: the docstring does not cite {source}"
        assert callable(module.apply)


def test_every_method_runs_on_several_families() -> None:
    """At least on two, on images only, on two towers, or where one stack reads another. An entry that refuses too much
    would have nothing tested."""
    for method in METHODS:
        families = {family for family in FAMILIES if runs(method, family)}
        reasons = [found for family in FAMILIES if isinstance(found := settings(method, family), str)]
        heads = KB[method].entry.properties.head_alone     # a model may have none of its own
        if any(t.roles and all("xattn" in role for role in t.roles) for t in KB[method].entry.tensors.values()):
            assert families == {"t5"}, method
            continue
        assert sum(NOWHERE in reason for reason in reasons) <= (3 if heads else 2), method
        required = [t.requires.source for t in KB[method].entry.tensors.values() if t.requires is not None]
        if (method, "clip") in MADE:
            assert runs(method, "clip"), method
        elif any("vocab == 0" in text for text in required):
            assert families == {"vit"}, method
        else:
            assert len(families) >= 2, method


def test_all_families_are_trained_on() -> None:
    assert {family for method in KB for family in trained_on(method)} == set(tiny.every())


@pytest.mark.parametrize("twin", TWINS, ids=str)
def test_check_rejects(twin: Twin) -> None:
    trial = with_module(trials(twin.method, twin.family)[0], twin.module)
    with pytest.raises(AssertionError, match=twin.says):
        twin.check(trial)


def test_every_check_has_a_twin() -> None:
    assert {twin.check for twin in TWINS} == set(checks.CHECKS)
