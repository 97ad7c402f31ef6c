"""LoRA-SB: training starts after the first step, and a step on the matrix moves the weight along its own gradient."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import lora_sb

pytestmark = pytest.mark.torch
TARGETS = ("attn.q", "mlp.down")


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_start_is_the_first_step_in_its_best_approximation(family: str) -> None:
    free = tiny.model(family)
    free.requires_grad_(True)
    before = tiny.loss(free, family)
    before.backward()
    model = lora_sb.apply(tiny.model(family), r=3, targets=TARGETS)
    lora_sb.calibrate(model, (tiny.loss(model, family) for _ in range(2)), lr=1e-4)
    for site, child in kit.at_sites(model, "lora_sb", lora_sb.LoRASB):
        full = free.get_parameter(f"{site.path}.weight").grad
        assert full is not None
        step = -1e-4 * (full.T if site.transposed else full)[site.start : site.stop].sign()
        left = torch.linalg.svdvals(step - child.delta())
        assert torch.allclose(left[: len(left) - 3], torch.linalg.svdvals(step)[3:]), "what is left is the rest"
    assert tiny.loss(model, family) < before, "a small step against the gradient lowers the loss"


def test_a_step_on_the_matrix_is_the_projected_step_of_the_weight() -> None:
    free = tiny.model("llama")
    model = lora_sb.apply(tiny.model("llama"), r=3, targets=TARGETS)
    lora_sb.calibrate(model, (tiny.loss(model, "llama") for _ in range(1)))
    pairs = list(kit.at_sites(model, "lora_sb", lora_sb.LoRASB))
    for site, child in pairs:
        free.get_parameter(f"{site.path}.weight").data.add_(child.delta().detach())
    free.requires_grad_(True)
    tiny.loss(free, "llama").backward()
    tiny.loss(model, "llama").backward()
    for site, child in pairs:
        gradient = free.get_parameter(f"{site.path}.weight").grad
        assert gradient is not None
        assert child.R.grad is not None
        moved = child.B @ child.R.grad @ child.A                            # of the weight, by a step on R
        inside = (child.B @ child.B.T) @ gradient @ (child.A.T @ child.A)
        assert torch.allclose(moved, inside, atol=1e-9)
