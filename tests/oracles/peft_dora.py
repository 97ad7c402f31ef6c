"""DoRA: LoRA's factors, and the row lengths in a module of their own."""

from __future__ import annotations

from typing import Any

from torch import nn

from reference_impls import _kit as kit
from reference_impls.dora import DoRA

from . import factors, layer


def copy(ours: nn.Module, theirs: Any) -> None:
    factors(ours, theirs, "dora")
    for site, child in kit.at_sites(ours, "dora", DoRA):
        layer(theirs, site).lora_magnitude_vector["default"].weight.copy_(child.m)
