"""FedEx-LoRA: averaged factors and the residual are the average of the products. The residual is a covariance."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from peftonomy.conformance.trial import Trial
from reference_impls import _kit as kit
from reference_impls import fedex_lora, lora

pytestmark = pytest.mark.torch
SETTING = {"tasks": 2, "r": 2, "alpha": 3.0}
TARGETS = ("attn.q", "mlp.up")


def exact(inputs: list[dict[str, Tensor]]) -> list[fedex_lora.Exact]:
    model = fedex_lora.combine(Trial("fedex_lora", "llama", SETTING, TARGETS).applied(), inputs)
    return [mean for _, mean in kit.at_sites(model, "fedex_lora", fedex_lora.Exact)]


def test_the_residual_makes_the_average_exact_and_has_a_low_rank() -> None:
    trial = Trial("fedex_lora", "llama", SETTING, TARGETS)
    models = [trial.of.restored(one) for one in trial.inputs]
    pairs = zip(*([child for _, child in kit.at_sites(m, "lora", lora.LoRA)] for m in models), strict=True)
    for mean, (a, b) in zip(exact(trial.inputs), pairs, strict=True):
        assert torch.allclose(mean.delta(), (a.delta() + b.delta()) / 2)
        covariance = sum((one.B - mean.B) @ (one.A - mean.A) for one in (a, b)) / 2
        assert torch.allclose(mean.residual, mean.scale * covariance)
        assert torch.linalg.matrix_rank(mean.residual) == 2             # (tasks - 1) r, with factors of rank r beside
        assert torch.linalg.matrix_rank(mean.B @ mean.A) == 2


def test_nothing_is_left_out_if_all_clients_have_the_same_first_factor() -> None:
    one, two = Trial("fedex_lora", "llama", SETTING, TARGETS).inputs
    two = {name: one[name] if name.endswith(".A") else value for name, value in two.items()}
    assert all(mean.residual.abs().max() < 1e-12 for mean in exact([one, two]))
