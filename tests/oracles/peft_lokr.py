"""LoKr: peft has LyCORIS's names, and the same factors are split."""

from __future__ import annotations

from typing import Any

from torch import nn

from reference_impls import _kit as kit
from reference_impls.lokr import LoKr

from . import layer

FAMILIES = ("bert", "roberta", "t5", "llama", "vit")


def copy(ours: nn.Module, theirs: Any) -> None:
    for site, child in kit.at_sites(ours, "lokr", LoKr):
        for name, value in child.named_parameters():
            getattr(layer(theirs, site), f"lokr_{name}")["default"].copy_(value)
