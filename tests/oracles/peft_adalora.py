"""AdaLoRA: lora_B, lora_E and lora_A are P, Lambda and Q."""

from __future__ import annotations

from typing import Any

from torch import nn

from reference_impls import _kit as kit
from reference_impls import adalora

from . import layer


def copy(ours: nn.Module, theirs: Any) -> None:
    for site, child in kit.at_sites(ours, "adalora", adalora.Triplets):
        peft = layer(theirs, site)
        peft.lora_B["default"].copy_(child.P)
        peft.lora_E["default"].copy_(child.Lambda[:, None])
        peft.lora_A["default"].copy_(child.Q)
