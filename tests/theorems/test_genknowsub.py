"""GenKnowSub: experts without the general part. Differences of factors are not the factors of a difference."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from peftonomy.conformance.checks import Saved
from peftonomy.conformance.trial import Trial
from reference_impls import _kit as kit
from reference_impls import _merging, _simulate, arrow, genknowsub, lora

pytestmark = pytest.mark.torch
SETTING = {"n_experts": 2, "n_general": 2, "r": 2, "alpha": 3.0, "top_k": 1}
TARGETS = ("attn.q", "mlp.up")


def test_the_difference_of_factors_has_mixed_products_and_the_routing_is_arrows() -> None:
    trial = Trial("genknowsub", "llama", SETTING, TARGETS)
    models = [trial.of.restored(one) for one in trial.inputs]
    pairs = list(zip(*([child for _, child in kit.at_sites(m, "lora", lora.LoRA)] for m in models), strict=True))
    found = [child for _, child in kit.at_sites(trial.make(), "genknowsub", arrow.Experts)]
    assert len(found) == len(pairs) == 4
    for child, (*tasks, one, other) in zip(found, pairs, strict=True):
        a, b = (one.A + other.A) / 2, (one.B + other.B) / 2             # the average of the general LoRAs
        for i, task in enumerate(tasks):
            product = child.B[i] @ child.A[i]
            assert torch.allclose(product, task.B @ task.A + b @ a - task.B @ a - b @ task.A)
            assert not torch.allclose(product, task.B @ task.A - b @ a, atol=1e-3)
        assert torch.allclose(child.p, child.directions())
        assert torch.equal(child.shares(child.p), torch.eye(2).to(child.p))


def test_an_expert_that_is_the_general_one_becomes_zero() -> None:
    trial = Trial("genknowsub", "llama", {**SETTING, "n_general": 1}, TARGETS)
    first, second, _ = trial.inputs
    model = genknowsub.combine(trial.applied(), [first, second, second])
    for _, child in kit.at_sites(model, "genknowsub", arrow.Experts):
        assert child.A[1].abs().max() == child.B[1].abs().max() == 0
        assert child.A[0].abs().max() > 0


@pytest.mark.parametrize("role", ["mlp.up", "mlp.down"])
def test_the_subtraction_takes_the_declared_bytes(role: str) -> None:
    """The whole combination takes more, in its second pass."""
    trial = Trial("genknowsub", "llama", SETTING, (role,))
    model, given = trial.applied(), [Saved(one) for one in trial.inputs]
    site, child = next(kit.at_sites(model, "genknowsub", arrow.Experts))
    taken = []
    for stack, name in zip((child.A, child.B), _merging.pair(child, "genknowsub"), strict=True):
        fill = partial(genknowsub.fill, stack, name, given[:2], given[2:])
        taken.append(_simulate.taken(model, fill))
    declared = trial.entry.combines.passes[0].temporary
    assert max(taken) == declared({"r": 2, "d_in": site.d_in, "d_out": site.d_out, "width": 8})
