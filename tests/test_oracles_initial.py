"""How tensors start in peft, against the start that the entry declares.

Which number of peft's is which of ours is found by marking: each number of ours is set to a number that occurs once,
the oracle copies ours into peft's model, and the marks are looked up there. Then peft's model is made under many seeds,
and its numbers, in our places, have to fit the declared distribution. What differs is a deviation (`golden: init A`).
"""

from __future__ import annotations

from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn

from peftonomy import UsageError
from peftonomy.conformance import initial, tiny
from peftonomy.conformance.trial import KB, Trial, trials
from peftonomy.schema.initial import Start

from .test_oracles_outputs import METHODS, configuration, oracle
from .test_oracles_outputs import pytestmark as pytestmark

FAMILIES = ("llama", "bert", "gpt2")
SEEDS = 40


def trial_of(method: str) -> Trial:
    module = oracle(method)
    for family in FAMILIES:
        if family in getattr(module, "FAMILIES", tiny.CONFIGS):
            try:
                trial = trials(method, family)[0]
            except UsageError:
                continue
            return Trial(method, family, trial.hyperparameters | getattr(module, "SETTING", {}), trial.targets)
    pytest.skip("peft supports none of the families")


def theirs(trial: Trial, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    base: Any = tiny.model(trial.family)
    if getattr(oracle(trial.method), "SINGLE", False):
        base = base.float()
    model: nn.Module = peft.get_peft_model(base, configuration(trial))
    return model.double().eval()


def marked(trial: Trial) -> dict[str, tuple[str, Tensor]]:
    """For each tensor of ours, the tensor of peft's that holds its numbers, and where: flat positions in our shape."""
    ours, other = trial.make(), theirs(trial, 0)
    live = {name: value for name, value in trial.live(ours).items() if value.is_floating_point()}   # no positions
    first = 1
    with torch.no_grad():
        for value in live.values():
            value.data = torch.arange(first, first + value.numel(), dtype=torch.float64).reshape(value.shape)
            first += value.numel()
        oracle(trial.method).copy(ours, other)
    places: dict[float, tuple[str, int]] = {}
    for name, value in other.state_dict().items():
        flat = value.double().flatten()
        at = (flat >= 1) & (flat < first) & (flat == flat.round())
        if at.any() and value.is_floating_point():
            places |= {flat[i].item(): (name, int(i)) for i in at.nonzero().flatten()}
    found = {}
    for name, value in live.items():
        there = [places.get(mark) for mark in value.flatten().tolist()]
        held = {place[0] for place in there if place}
        if None not in there and len(held) == 1:
            found[name] = held.pop(), torch.tensor([place[1] for place in there if place]).reshape(value.shape)
    return found


@pytest.mark.parametrize("method", METHODS)
def test_peft_starts_as_declared(method: str) -> None:
    trial = trial_of(method)
    where = marked(trial)
    library = KB[method].entry.implementations["hf_peft"]
    assert ("start" in library.checked) == bool(where), "`checked` says otherwise"
    if not where:
        pytest.skip("no tensor of peft's holds numbers of ours as they are")
    model = trial.make()
    own = tiny.plain(trial.family).state_dict()
    held: dict[str, initial.Draws] = {}
    slots: list[tuple[str, list[Tensor]]] = []
    for place, names in zip(trial.places, trial.names(model), strict=True):
        for name in names:
            if name in where:
                drawn: list[Tensor] = []
                start = Start.parse(place.spec.init)
                held.setdefault(place.tensor, initial.Draws(start, own)).places.append((place, drawn))
                slots.append((name, drawn))
    for seed in range(SEEDS):
        state = theirs(trial, seed).state_dict()
        for name, drawn in slots:
            source, at = where[name]
            drawn.append(state[source].double().flatten()[at])
        if seed >= 3 and all(one.size >= initial.WANTED for one in held.values()):
            break
    rows = [row for deviation in library.deviations for row in deviation.golden]
    declared = {row.removeprefix("init ") for row in rows if row.startswith("init ")}
    found = {tensor: problem for tensor, one in held.items() for problem in initial.differing(one, one.start)}
    assert found.keys() == declared & held.keys(), found
