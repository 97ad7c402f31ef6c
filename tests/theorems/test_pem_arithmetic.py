"""PEM arithmetic: sums of factors. One changed sign negates an adapter, and a product of sums has mixed terms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from peftonomy.conformance.trial import Trial
from reference_impls import _kit as kit
from reference_impls import _merging, lora, pem_arithmetic

pytestmark = pytest.mark.torch
SETTING = {"r": 2, "alpha": 3.0}
TARGETS = ("attn.q", "mlp.up")


def summed(inputs: list[dict[str, Tensor]], **given: float) -> list[Tensor]:
    trial = Trial("pem_arithmetic", "llama", {"tasks": len(inputs), **SETTING, **given}, TARGETS)
    model = pem_arithmetic.combine(trial.applied(), inputs)
    return [child.delta() for _, child in kit.at_sites(model, "pem_arithmetic", _merging.Pair)]


def test_sums_of_factors_have_mixed_products_and_one_sign_negates() -> None:
    trial = Trial("pem_arithmetic", "llama", {"tasks": 2, **SETTING}, TARGETS)
    one, two = trial.inputs
    models = [trial.of.restored(given) for given in trial.inputs]
    pairs = zip(*([child for _, child in kit.at_sites(m, "lora", lora.LoRA)] for m in models), strict=True)
    found = summed([one, two], first=0.5, others=0.5)
    negative = summed([one], first=1.0, negated=1)
    for total, minus, (a, b) in zip(found, negative, pairs, strict=True):
        mixed = a.scale * (a.B @ b.A + b.B @ a.A)
        assert torch.allclose(total, (a.delta() + b.delta() + mixed) / 4)
        assert mixed.abs().max() > 1e-3
        assert torch.linalg.matrix_rank(total) == 2                 # that of each input
        assert torch.allclose(minus, -a.delta())


def test_adapters_with_the_same_first_factor_add_up_exactly() -> None:
    trial = Trial("pem_arithmetic", "llama", {"tasks": 2, **SETTING}, TARGETS)
    one, two = trial.inputs
    two = {name: one[name] if name.endswith(".A") else value for name, value in two.items()}
    for mean, a, b in zip(summed([one, two]), summed([one], first=1.0), summed([two], first=1.0), strict=True):
        assert torch.allclose(mean, (a + b) / 2)
    for gone in summed([one, one], first=1.0, others=1.0, negated=1):
        assert gone.abs().max() == 0
