"""LoRA-One: training starts after a step against the full gradient, in its best approximation of the rank."""

from __future__ import annotations

import math

import pytest
import torch

from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import lora_one

pytestmark = pytest.mark.torch
TARGETS = ("attn.q", "mlp.down")


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_start_is_a_step_of_gradient_descent(family: str) -> None:
    free = tiny.model(family)
    free.requires_grad_(True)
    before = tiny.loss(free, family)
    before.backward()
    model = lora_one.apply(tiny.model(family), r=3, alpha=6.0, stable_gamma=1e5, targets=TARGETS)
    lora_one.calibrate(model, (tiny.loss(model, family) for _ in range(2)))
    for site, child in kit.at_sites(model, "lora_one", lora_one.LoRAOne):
        full = free.get_parameter(f"{site.path}.weight").grad
        assert full is not None
        gradient = (full.T if site.transposed else full)[site.start : site.stop]
        u, s, v = torch.linalg.svd(gradient, full_matrices=False)
        best = (u[:, :3] * s[:3]) @ v[:3]
        rate = 6 / math.sqrt(3) / 1e5 / s[0]
        assert torch.allclose(child.delta(), -rate * best)
        assert not site.module.weight.requires_grad
    assert tiny.loss(model, family) < before, "a small step against the gradient lowers the loss"
