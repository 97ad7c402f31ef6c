"""The behaviour suite: every method on every family that it acts on, at two settings.

All checks but three run everywhere. Training, storing and the bytes of a step take most of the time and seldom depend
on the family. Each method has them on two families, drawn by its id so that the methods together cover all of them: on
one at every setting, on the other at the first. With GRID=whole (`make grid`) it has them everywhere.
"""

from __future__ import annotations

import importlib
import random

import pytest

from peftonomy import UsageError
from peftonomy.conformance import checks, tiny
from peftonomy.conformance.trial import KB, Trial, trials, with_module
from tests.grid import WHOLE, drawn

from .twins import TWINS, Twin

pytestmark = pytest.mark.torch
NOWHERE_TO_ACT = [(m, f) for m in ("bitfit", "u_bitfit", "s_bitfit") for f in ("llama", "t5")]
NOWHERE_TO_ACT += [("coda", f) for f in ("gpt2", "llama")]
NOWHERE_TO_ACT += [("trainable_tokens", "vit")]
"""Where a method finds nothing in a family at all: families without biases, without an encoder, without tokens."""
REFUSED = [("shadow_peft", f) for f in ("bert", "roberta", "t5", "vit")]
REFUSED += [("residual_prompt_tuning", "vit"), ("lotr", "llama")]
OF_IMAGES = ("adaptformer", "convpass", "dualprompt", "fact", "l2p", "repadapter", "ssf", "vpt")
REFUSED += [(m, f) for m in OF_IMAGES for f in tiny.CONFIGS if f != "vit"]
"""Where a method would find something, and its entry requires of the model what this family does not have."""
PAIRS = [(m, f) for m in KB.methods for f in tiny.CONFIGS if (m, f) not in (*NOWHERE_TO_ACT, *REFUSED)]
STAGES = (
    "adapterdrop",
    "attempt",
    "attentionfusion",
    "coda",
    "convpass",
    "cpt",
    "direft",
    "dualprompt",
    "fact",
    "hyperformer_pp",
    "invertible_adapter",
    "l2p",
    "loreft",
    "lst",
    "mad_x",
    "mam_adapter",
    "mov",
    "mpt",
    "noreft",
    "p_tuning",
    "pasta",
    "prefix_tuning",
    "prompt_tuning",
    "propetl",
    "residual_prompt_tuning",
    "s2ft",
    "spot",
    "tiny_attn_adapter",
    "u_mam",
    "unipelt",
    "vpt",
    "warp",
    "x_lora",
)
"""Methods that need layers of one width, positions that stay, or one numbering of layers: no encoder of stages."""
ON_STAGES = [m for m in KB.methods if m not in (*STAGES, "bad_x", "shadow_peft", "trainable_tokens", "lotr")]
"""The other methods; bad_x acts there without its coupling only."""
SAMPLE = [(m, f) for f in tiny.STAGED for m in drawn(f, ON_STAGES, 8)]


LONG = frozenset({checks.training, checks.storing, checks.memory})
TRAINED_ON = 2


def trained_on(method: str) -> list[str]:
    """Draw the families on which a method trains and stores."""
    known = [family for other, family in PAIRS if other == method]
    chosen = random.Random(method).sample(known, min(TRAINED_ON, len(known)))
    staged = [family for other, family in SAMPLE if other == method]
    return [chosen[0], *(staged or chosen[1:])]


@pytest.mark.parametrize(("method", "family"), [*PAIRS, *SAMPLE])
def test_method(method: str, family: str) -> None:
    trained = trained_on(method)
    for number, trial in enumerate(trials(method, family)):
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
    """What the suite leaves out is listed by name; a method acts on two families at least, or on images only."""
    covered = {method: {f for m, f in PAIRS if m == method} for method in KB.methods}
    tensors = {method: KB[method].entry.tensors.values() for method in covered}
    requirements = {m: [t.requires.source for t in tensors[m] if t.requires is not None] for m in covered}
    images = {m for m, wanted in requirements.items() if any("vocab == 0" in text for text in wanted)}
    assert {m for m, families in covered.items() if len(families) < 2} == images
    assert all(covered[method] == {"vit"} for method in images)
    assert all(family in tiny.CONFIGS for _, family in NOWHERE_TO_ACT)


def test_all_families_are_trained_on() -> None:
    assert {family for method in KB for family in trained_on(method)} == set(tiny.every())


@pytest.mark.parametrize(("method", "family"), NOWHERE_TO_ACT)
def test_nowhere_to_act_is_still_true(method: str, family: str) -> None:
    with pytest.raises(UsageError, match="nothing to act on"):
        trials(method, family)


@pytest.mark.parametrize(("method", "family"), REFUSED)
def test_refused_by_entry_and_implementation(method: str, family: str) -> None:
    with pytest.raises(UsageError, match="requires"):
        trials(method, family)
    with pytest.raises(UsageError):
        Trial(method, family, {}).make()


@pytest.mark.parametrize("method", STAGES)
def test_refused_on_stages_and_towers(method: str) -> None:
    """At the defaults. Without its MLP, or without the coupling, a method may act."""
    for model in ("swin_tiny", "clip_vit_b_32"):
        with pytest.raises(UsageError, match=r"requires .*(n_encoders|vocab)"):
            KB[method].cost(model)


@pytest.mark.parametrize("twin", TWINS, ids=str)
def test_check_rejects(twin: Twin) -> None:
    trial = with_module(trials(twin.method, twin.family)[0], twin.module)
    with pytest.raises(AssertionError, match=twin.says):
        twin.check(trial)


def test_every_check_has_a_twin() -> None:
    assert {twin.check for twin in TWINS} == set(checks.CHECKS)
