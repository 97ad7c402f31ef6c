"""AdapterHub's library as oracle: what it trains, adds and stores, and what it computes once our tensors are in it.

It pins another transformers, so it has an environment of its own (`make` builds it) and is asked by files, once for
all cases. What it is configured with comes from the entries; which of its tensors is which of ours from the modules
`oracles/adapters_<id>.py`. Where it differs, the difference is a deviation of the entry, and shown to be there here.
"""

from __future__ import annotations

import functools
import importlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from peftonomy import UsageError
from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from peftonomy.conformance.trial import KB, Trial, layout, trials

from . import shapes  # noqa: F401 (adds families)

pytestmark = [pytest.mark.torch, pytest.mark.xdist_group("adapters")]
ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "tests/oracles"
SIDE = FOLDER / "adapters_side.py"
PYTHON = Path(os.environ.get("ADAPTERS_PYTHON", ROOT / ".venv-adapters/bin/python"))
LIBRARY = {m: KB[m].entry.implementations["adapters"] for m in KB.methods if "adapters" in KB[m].entry.implementations}
UNIONS = [method for method, library in LIBRARY.items() if library.unites]
"""Configurations of configurations."""
AS_LORA = ("dora", "mtl_lora")
"""Whose entries have other default targets than the library, which takes LoRA's."""
COUNTED = [method for method, library in LIBRARY.items() if library.type or method in UNIONS]
ORACLES = {path.stem.removeprefix("adapters_"): importlib.import_module(f"tests.oracles.{path.stem}")
           for path in sorted(FOLDER.glob("adapters_*.py")) if path != SIDE}  # fmt: skip
COMPARED = [(method, family) for method, oracle in ORACLES.items() for family in oracle.FAMILIES]
REFUSED = {
    ("prompt_tuning", "t5"), ("prompt_tuning", "gpt2"), ("prompt_tuning", "llama"), ("invertible_adapter", "vit"),
    ("dora", "gpt2"),
}  # fmt: skip
"""Where the library has the method, but not for this family."""
COUNTED_ON = (
    *tiny.CONFIGS, "albert", "bart", "deberta", "deberta-v2", "distilbert", "electra", "gptj", "mbart", "mistral",
    "mt5", "whisper", "xlm-roberta",
)  # fmt: skip
"""All families of the library that are described here but CLIP, whose towers have two widths: what entries say of this
library is over one."""
REFUSED |= {("prompt_tuning", f) for f in ("bart", "mbart", "gptj", "mistral", "mt5")}
REFUSED |= {("dora", "deberta")}
NEITHER = {("prompt_tuning", "whisper")}
"""Where the entry refuses the family, too."""
LOST = "the file lacks the shared matrices"
OTHERWISE = {
    **{("vera", family): "the two diagonal matrices as full ones" for family in COUNTED_ON},
    **{("invertible_adapter", family): "If the embedding size is odd" for family in ("albert", "electra")},
    ("ia3", "mistral"): "instead of its inner activations",
    ("mtl_lora", "deberta"): "one matrix and one set of weights serve",
    **{(method, "mistral"): "Assumes that the width of a head" for method in ("prefix_tuning", *UNIONS)},
    ("ia3", "llama"): "instead of its inner activations",
    ("mtl_lora", "gpt2"): "one matrix and one set of weights serve",
    **{(method, "llama"): "Assumes that the width of a head" for method in ("prefix_tuning", *UNIONS)},
    **{(method, family): LOST for method in ("compacter", "compacter_pp")
       for family in ("roberta", "t5", "mt5", "deberta-v2")},
}
"""Where its counts are others, with words of the deviation that says why."""
BIASED = ("deberta",)
"""Families whose models the library gives biases that they do not have, whatever the method; a deviation of LoRA."""


@pytest.fixture(scope="session", autouse=True)
def environment() -> None:
    """The library's environment, which a developer may do without and CI may not."""
    if not PYTHON.exists():
        absent = f"{PYTHON} is not there: `make test` builds it"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(absent)


def targets(method: str, family: str) -> tuple[str, ...] | None:
    """Roles to name, or none where the entry's own defaults are the library's."""
    return KB["lora"].cost(layout(family)[0]).targets if method in AS_LORA else None


def settings(method: str, family: str) -> Iterator[Trial]:
    """The settings of the behaviour suite, and the library's defaults; what the library lacks stays at our default."""
    first, second, *_ = trials(method, family)
    library, specs = LIBRARY[method], first.entry.hyperparameters
    small = {name: value for name, value in first.hyperparameters.items() if isinstance(specs[name].default, str)
             and specs[name].type != "choice"}  # fmt: skip
    defaults = {name: spec.default for name, spec in specs.items()} | small | library.defaults
    has = {*library.rename, *(name for formula in library.write.values() for name in formula.names)}
    for given in (first.hyperparameters, second.hyperparameters, {}):
        setting = defaults | {name: value for name, value in given.items() if name in has or method in UNIONS}
        trial = replace(first, hyperparameters=setting, targets=targets(method, family))
        try:
            _ = trial.cost
        except UsageError:          # does not fit a model this small
            continue
        yield trial


def known(trial: Trial) -> dict[str, Any]:
    """What the formulas of a library may name."""
    backbone, task, labels = layout(trial.family)
    plan = KB[trial.method].plan(backbone, task=task, num_labels=labels, targets=trial.targets)
    cost = trial.cost
    ledgers = {"trained": cost.trained, "stored": cost.stored, "served": cost.served}
    return plan.common | ledgers | cost.hyperparameters


def case(trial: Trial) -> dict[str, Any]:
    library, values = LIBRARY[trial.method], known(trial)
    model, sizes = {**tiny.CONFIGS, **tiny.SHAPES}[trial.family]
    asks = arguments(library, values)
    if library.unites:
        backbone, task, labels = layout(trial.family)
        whole = KB[trial.method].export(backbone, to="adapters", task=task, num_labels=labels, **trial.hyperparameters)
        asks = {name: (part.symbol, part.arguments) for name, part in whole.arguments.items()}
    return {"model": model, "sizes": sizes, "config": library.symbol, "arguments": asks}


def arguments(library: Any, values: dict[str, Any]) -> dict[str, Any]:
    """A configuration's arguments; what a method in a union has no hyperparameter for keeps the library's default."""
    renamed = {theirs: values[ours] for ours, theirs in library.rename.items() if ours in values}
    return renamed | library.set | {name: formula(values) for name, formula in library.write.items()}


def declared(trial: Trial) -> dict[str, int]:
    """What the entry says of the library's counts."""
    library, values = LIBRARY[trial.method], known(trial)
    own = sum(place.count * place.copies for place in trial.places if not place.spec.selecting)
    said = {"trained": (library.trained, trial.cost.trained), "added": (library.added, own),
            "stored": (library.stored, trial.cost.stored)}  # fmt: skip
    return {name: ours if formula is None else int(formula(values)) for name, (formula, ours) in said.items()}


def compared(method: str, family: str) -> tuple[Trial, nn.Module, dict[str, Any]]:
    """Our model, shaken away from its start, and the case that puts its numbers into the library's."""
    oracle, trial = ORACLES[method], trials(method, family)[0]
    setting = trial.hyperparameters | getattr(oracle, "SETTING", {})
    trial = replace(trial, targets=targets(method, family), hyperparameters=setting)
    ours = trial.make()
    shake(ours)
    asks = case(trial)
    asks["arguments"] |= getattr(oracle, "ARGUMENTS", {})
    asks["tensors"] = {name: value.detach().contiguous() for name, value in oracle.tensors(ours).items()}
    return trial, ours, asks | {"weights": dict(tiny.plain(family).state_dict()), "batch": tiny.batch(family)}


@functools.cache
def asked() -> dict[tuple[str, str, int | str], dict[str, Any]]:
    """The library's answers to all cases, from one run of it."""
    cases: dict[tuple[str, str, int | str], dict[str, Any]] = {}
    for family in COUNTED_ON:
        for method in (m for m in COUNTED if (m, family) not in NEITHER):
            cases |= {(method, family, i): case(trial) for i, trial in enumerate(settings(method, family))}
    cases |= {(method, family, "outputs"): compared(method, family)[2] for method, family in COMPARED}
    folder = ROOT / "build/adapters"
    folder.mkdir(parents=True, exist_ok=True)
    torch.save([*cases.values()], folder / "request.pt")
    call = [str(PYTHON), str(SIDE), str(folder / "request.pt"), str(folder / "answer.pt")]
    ran = subprocess.run(call, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return dict(zip(cases, torch.load(folder / "answer.pt"), strict=True))


@pytest.mark.parametrize(("method", "family"), [(m, f) for m in COUNTED for f in COUNTED_ON if (m, f) not in NEITHER])
def test_counts(method: str, family: str) -> None:
    cases = [(trial, asked()[method, family, i]) for i, trial in enumerate(settings(method, family))]
    for trial, said in cases:
        assert ("refused" in said) == ((method, family) in REFUSED or trial.hyperparameters.get("matrix") == "linear")
    pairs = [(declared(trial), said) for trial, said in cases if "refused" not in said]
    if family in BIASED:
        extra = {said["added"] - ours["added"] for ours, said in pairs if (method, family) not in OTHERWISE}
        assert all(number > 0 for number in extra)
        pairs = [(ours | {"added": said["added"]}, said) for ours, said in pairs]
    if (method, family) in OTHERWISE:
        assert any(OTHERWISE[method, family] in deviation.note for deviation in LIBRARY[method].deviations)
        assert all(ours != theirs for ours, theirs in pairs)
    else:
        assert [ours for ours, _ in pairs] == [theirs for _, theirs in pairs]


@pytest.mark.parametrize(("method", "family"), COMPARED)
def test_same_outputs(method: str, family: str) -> None:
    trial, ours, _ = compared(method, family)
    with torch.no_grad():
        mine, plain = trial.outputs(ours), trial.outputs(tiny.plain(family))
    theirs = asked()[method, family, "outputs"]["outputs"]
    if theirs.ndim == 3 and family != "t5":
        theirs = theirs[tiny.batch(family)["attention_mask"].bool()]
    assert (mine - theirs).abs().max() < tiny.TOLERANCE
    assert (mine - plain).abs().max() > 0.01, "the comparison would not notice a method that does nothing"


def test_entries_name_what_is_compared() -> None:
    assert {m for m, found in LIBRARY.items() if "outputs" in found.checked} == set(ORACLES)
    assert [m for m, found in LIBRARY.items() if "counts" in found.checked] == COUNTED
