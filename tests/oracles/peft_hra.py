"""HRA: peft keeps the normals as a parameter of the same shape."""

from __future__ import annotations

from typing import Any

from torch import nn

from reference_impls import _kit as kit
from reference_impls.hra import HRA

from . import layer

FAMILIES = ("bert", "roberta", "t5", "llama", "vit")


def copy(ours: nn.Module, theirs: Any) -> None:
    for site, child in kit.at_sites(ours, "hra", HRA):
        layer(theirs, site).hra_u["default"].copy_(child.U)
