"""FLoRA: a stack of LoRAs is the weighted sum of their products, of as high a rank. Averaged factors are not."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance.trial import Trial
from reference_impls import _kit as kit
from reference_impls import _merging, flora_federated, lora, pem_arithmetic

pytestmark = pytest.mark.torch
SETTING = {"tasks": 2, "r": 2, "alpha": 3.0}
TARGETS = ("attn.q", "mlp.up")


def test_the_stack_is_the_weighted_sum_of_the_products() -> None:
    trial = Trial("flora_federated", "llama", SETTING, TARGETS)
    models = [trial.of.restored(one) for one in trial.inputs]
    parts = [[child.delta() for _, child in kit.at_sites(m, "lora", lora.LoRA)] for m in models]
    found = flora_federated.combine(trial.applied(), trial.inputs, examples=[1, 3])
    other = Trial("pem_arithmetic", "llama", {**SETTING, "first": 0.25, "others": 0.75}, TARGETS).applied()
    pem_arithmetic.combine(other, trial.inputs)
    means = [mean for _, mean in kit.at_sites(other, "pem_arithmetic", _merging.Pair)]
    stacks = [stack for _, stack in kit.at_sites(found, "flora_federated", _merging.Pair)]
    for stack, mean, first, second in zip(stacks, means, *parts, strict=True):
        wanted = 0.25 * first + 0.75 * second
        assert torch.allclose(stack.delta(), wanted)
        assert torch.linalg.matrix_rank(wanted) == 4
        assert torch.linalg.matrix_rank(mean.delta()) == 2
        assert stack.A.numel() == 2 * mean.A.numel()
