"""LoRA-GA: the first step of the product is the best approximation of rank 2 r of a full gradient step."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import lora_ga

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_first_step_is_the_gradients_best_approximation(family: str) -> None:
    free = tiny.model(family)
    places = kit.sites(free, ("attn.q", "attn.v"))
    free.requires_grad_(True)
    tiny.loss(free, family).backward()
    full = {}
    for site in places:
        assert site.module.weight.grad is not None
        whole = site.module.weight.grad.T if site.transposed else site.module.weight.grad
        full[site.path, site.role] = whole[site.start : site.stop]

    model = lora_ga.apply(tiny.model(family), r=2, alpha=6.0, stable_gamma=5.0, targets=("attn.q", "attn.v"))
    lora_ga.calibrate(model, (tiny.loss(model, family) for _ in range(2)))
    tiny.loss(model, family).backward()
    for site, child in kit.at_sites(model, "lora_ga", lora_ga.LoRAGA):
        assert child.A.grad is not None
        assert child.B.grad is not None
        step = child.scale * (child.B.grad @ child.A + child.B @ child.A.grad)      # of the product, to first order
        u, s, v = torch.linalg.svd(full[site.path, site.role], full_matrices=False)
        best = (u[:, :4] * s[:4]) @ v[:4]
        assert torch.allclose(step, child.scale**2 * child.size**2 * best)
        assert site.module.weight.grad is None
