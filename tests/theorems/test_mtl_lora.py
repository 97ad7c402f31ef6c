"""MTL-LoRA: maps up that start alike and are weighed alike never part, which is why the weights start unequal."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import mtl_lora

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("equal", [True, False])
def test_maps_up_part_only_if_their_weights_differ(equal: bool) -> None:
    torch.manual_seed(0)
    model = mtl_lora.apply(tiny.model("llama"), r=2, n_up=2, targets=("attn.q",))
    children = [child for _, child in kit.at_sites(model, "mtl_lora", mtl_lora.TaskLoRA)]
    for child in children if equal else ():
        child.w.data.fill_(1.0)
    before = [child.w.detach().clone() for child in children]
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    for _ in range(3):
        optimiser.zero_grad()
        tiny.loss(model, "llama").backward()
        optimiser.step()
    for child, w in zip(children, before, strict=True):
        assert torch.equal(child.B[0], child.B[1]) == equal
        assert bool((child.w - w).abs().max() < 1e-12) == equal
