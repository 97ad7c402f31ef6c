"""Uni-LoRA: peft keeps the factor on each number at each entry."""

from __future__ import annotations

from typing import Any

from torch import nn

from reference_impls import _kit as kit
from reference_impls.uni_lora import UniLoRA

from . import layer

SETTING = {"theta_d_length": 100}       # two numbers for all entries change next to nothing


def copy(ours: nn.Module, theirs: Any) -> None:
    for site, child in kit.at_sites(ours, "uni_lora", UniLoRA):
        peft = layer(theirs, site)
        peft.unilora_theta_d["default"].copy_(child.shared.theta)
        peft.unilora_indices_A["default"] = child.index_a
        peft.unilora_indices_B["default"] = child.index_b
        peft.unilora_scales_A["default"] = child.shared.scale[child.index_a]
        peft.unilora_scales_B["default"] = child.shared.scale[child.index_b]
