"""GraLoRA: peft keeps the grid in the same shapes, and the plain LoRA as linear maps."""

from __future__ import annotations

from typing import Any

from torch import nn

from reference_impls import _kit as kit
from reference_impls.gralora import Grid

from . import layer


def copy(ours: nn.Module, theirs: Any) -> None:
    for site, child in kit.at_sites(ours, "gralora", Grid):
        peft = layer(theirs, site)
        peft.gralora_A["default"].copy_(child.A)
        peft.gralora_B["default"].copy_(child.B)
        peft.gralora_A_general["default"].weight.copy_(child.A_h)
        peft.gralora_B_general["default"].weight.copy_(child.B_h)
