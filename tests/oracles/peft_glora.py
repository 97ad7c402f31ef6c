"""GLoRA: peft calls the factors of a product Xd and Xu, and every other part X."""

from __future__ import annotations

from typing import Any

from torch import nn

from reference_impls import _kit as kit
from reference_impls.glora import Parts

from . import layer


def copy(ours: nn.Module, theirs: Any) -> None:
    for site, child in kit.at_sites(ours, "glora", Parts):
        peft = layer(theirs, site)
        for name, parameter in child.named_parameters():
            part, _, factor = name.partition("_")
            mine = getattr(getattr(peft, f"glora_{part}")["default"], f"X{factor}")
            mine.copy_(parameter.view(mine.shape))
