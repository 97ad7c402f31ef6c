"""BD-LoRA: blocks stacked by rows, as here. The entry's configuration names the modules as LLaMA does."""

from __future__ import annotations

from typing import Any

from torch import nn

from reference_impls import _kit as kit
from reference_impls.bd_lora import BDLoRA

from . import layer

FAMILIES = ("llama",)


def copy(ours: nn.Module, theirs: Any) -> None:
    for site, child in kit.at_sites(ours, "bd_lora", BDLoRA):
        peft = layer(theirs, site)
        first, second = child.factors()
        peft.lora_A["default"].weight.copy_(first)
        peft.lora_B["default"].weight.copy_(second)
