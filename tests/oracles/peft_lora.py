"""LoRA: peft keeps the factors as linear maps of the same names."""

from __future__ import annotations

from typing import Any

from torch import nn

from reference_impls import _kit as kit
from reference_impls.lora import LoRA

from . import layer


def copy(ours: nn.Module, theirs: Any) -> None:
    for site, child in kit.at_sites(ours, "lora", LoRA):
        peft = layer(theirs, site)
        peft.lora_A["default"].weight.copy_(child.A)
        peft.lora_B["default"].weight.copy_(child.B)
