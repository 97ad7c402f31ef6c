"""BEFT: peft keeps the vector as a row, with a bias in the model or without."""

from __future__ import annotations

from typing import Any

from torch import nn

from reference_impls import _kit as kit
from reference_impls.beft import BEFT

from . import layer

FAMILIES = ("bert", "roberta", "t5", "llama", "vit")


def copy(ours: nn.Module, theirs: Any) -> None:
    for site, child in kit.at_sites(ours, "beft", BEFT):
        [vector] = child.parameters()
        layer(theirs, site).beft_bias["default"].copy_(vector[None])
