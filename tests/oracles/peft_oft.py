"""OFT: peft keeps what stands above the diagonals as `weight` of a rotation module."""

from __future__ import annotations

from typing import Any

from torch import nn

from reference_impls import _kit as kit
from reference_impls.oft import OFT

from . import layer

FAMILIES = ("bert", "roberta", "t5", "llama", "vit")
SETTING = {"use_cayley_neumann": True, "num_cayley_neumann_terms": 5}


def copy(ours: nn.Module, theirs: Any) -> None:
    for site, child in kit.at_sites(ours, "oft", OFT):
        rotation = layer(theirs, site).oft_R["default"]
        sign = 1 if rotation.use_cayley_neumann else -1     # the exact form is the inverse of ours
        rotation.weight.copy_(sign * child.Q)
