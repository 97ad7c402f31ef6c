"""peft's outputs equal ours once our tensors are copied into its model: every method that has a module in `oracles`."""

from __future__ import annotations

import importlib
from collections.abc import Container
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from peftonomy import UsageError
from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from peftonomy.conformance.trial import KB, Trial, layout, trials

from .grid import drawn

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing"),      # peft asks transformers by the old name
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to"),         # and corrects itself on GPT-2's Conv1D
    pytest.mark.filterwarnings("ignore:Unsupported layer type"),           # RMSNorm, whose width it need not know
    pytest.mark.filterwarnings("ignore:Detected that the base layer has no bias"),  # and that it thus cannot merge
    pytest.mark.filterwarnings("ignore:Sparse invariant checks"),          # of torch, at the first sparse tensor
    pytest.mark.filterwarnings("ignore:Failed to load the CUDA extension"),         # where there is no GPU,
    pytest.mark.filterwarnings("ignore:Setting boft_n_butterfly_factor to 1"),      # and what it then does
    pytest.mark.filterwarnings("ignore:aLoRA is currently only supported"),     # where no task is named
    pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated"),       # the shadow's, by its old name
]
FOLDER = Path(__file__).parent / "oracles"
METHODS = sorted(path.stem.removeprefix("peft_") for path in FOLDER.glob("peft_*.py"))


def oracle(method: str) -> Any:
    return importlib.import_module(f"tests.oracles.peft_{method}")


def configuration(trial: Trial) -> Any:
    """peft's configuration of a trial, exported; with a task only where it decides where a prompt goes."""
    try:
        config = KB[trial.method].export(layout(trial.family)[0], **trial.asked)
    except UsageError as error:
        pytest.skip(str(error))
    arguments = dict(config.arguments)
    if "target_modules" in arguments:
        arguments.pop("task_type")
    return getattr(peft, config.symbol)(**arguments)


def supported(method: str) -> Container[str]:
    """Return the families on which peft has the method."""
    found: Container[str] = getattr(oracle(method), "FAMILIES", tiny.CONFIGS)
    return found


PAIRS = [(m, f) for m in METHODS for f in drawn(m, [f for f in tiny.CONFIGS if f in supported(m)], 3)]


@pytest.mark.parametrize(("method", "family"), PAIRS)
def test_same_outputs(method: str, family: str) -> None:
    """On three families, which are others for each method; `make grid` takes all."""
    module = oracle(method)
    try:
        trial = trials(method, family)[0]
    except UsageError:
        pytest.skip("finds nothing to act on")
    trial = Trial(method, family, trial.hyperparameters | getattr(module, "SETTING", {}), trial.targets)
    ours = trial.make()
    shake(ours)
    torch.manual_seed(0)
    base = tiny.model(family)
    single = getattr(module, "SINGLE", False)
    if single:
        base = base.float()
    theirs: Any = peft.get_peft_model(base, configuration(trial))
    theirs = theirs.double().eval()
    with torch.no_grad():
        module.copy(ours, theirs)
        difference = trial.outputs(ours) - trial.outputs(theirs)
        moved = trial.outputs(ours) - trial.outputs(tiny.plain(family))
    assert difference.abs().max() < (1e-3 if single else tiny.TOLERANCE)
    assert moved.abs().max() > 0.01, "the comparison would not notice a method that does nothing"


def test_entries_name_what_is_compared() -> None:
    entries = {m: KB[m].entry.implementations for m in KB.methods}
    checked = {m: found["hf_peft"] for m, found in entries.items() if "hf_peft" in found}
    assert [m for m, found in checked.items() if "outputs" in found.checked] == METHODS
    assert [m for m, found in checked.items() if ("counts" in found.checked) != bool(found.type)] == []
