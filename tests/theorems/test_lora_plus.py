"""LoRA+: the two learning rates, and peft's optimiser of that name takes the same steps."""

from __future__ import annotations

from typing import Any

import peft
import pytest
import torch
from peft.optimizers import create_loraplus_optimizer

from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import lora_plus
from tests.oracles import factors, layer

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")]


def test_one_step_moves_the_second_factor_by_the_ratio() -> None:
    """Adam's first step moves every entry by its learning rate, whatever the gradient."""
    model = lora_plus.apply(tiny.model("llama"), r=2, lr_ratio=8.0)
    children = [child for _, child in kit.at_sites(model, "lora_plus", lora_plus.LoRAPlus)]
    for child in children:
        torch.nn.init.normal_(child.B)                  # so that A has a gradient, too
    before = [(child.A.clone(), child.B.clone()) for child in children]
    optimiser = torch.optim.Adam(lora_plus.parameter_groups(model, 1e-3), eps=1e-30)
    tiny.loss(model, "llama").backward()
    optimiser.step()
    for child, (a, b) in zip(children, before, strict=True):
        assert torch.allclose((child.A - a).abs(), torch.full_like(a, 1e-3))
        assert torch.allclose((child.B - b).abs(), torch.full_like(b, 8e-3))
    assert {id(p) for g in optimiser.param_groups for p in g["params"]} == {
        id(p) for p in model.parameters() if p.requires_grad
    }


def test_peft_takes_the_same_steps() -> None:
    ours = lora_plus.apply(tiny.model("llama"), r=2, alpha=4.0, lr_ratio=5.0)
    config = peft.LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"])
    theirs: Any = peft.get_peft_model(tiny.model("llama"), config).double()
    with torch.no_grad():
        factors(ours, theirs, "lora_plus")
    kwargs: Any = {"lr": 0.01, "loraplus_lr_ratio": 5.0}
    both = (torch.optim.AdamW(lora_plus.parameter_groups(ours, 0.01), weight_decay=0.0),
            create_loraplus_optimizer(theirs, torch.optim.AdamW, **kwargs))  # fmt: skip
    for _ in range(3):
        for model, optimiser in zip((ours, theirs), both, strict=True):
            optimiser.zero_grad()
            tiny.loss(model, "llama").backward()
            optimiser.step()
    for site, child in kit.at_sites(ours, "lora_plus", lora_plus.LoRAPlus):
        assert torch.allclose(child.B, layer(theirs, site).lora_B["default"].weight, atol=1e-6)
        assert torch.allclose(child.A, layer(theirs, site).lora_A["default"].weight, atol=1e-6)
