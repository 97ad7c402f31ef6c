"""BOFT: peft keeps the blocks as we do, and the scale as a column. Without a GPU it knows one factor only."""

from __future__ import annotations

from typing import Any

from torch import nn

from reference_impls import _kit as kit
from reference_impls.boft import BOFT

from . import layer

FAMILIES = ("bert", "roberta", "t5", "llama", "vit")
SETTING = {"n_butterfly_factor": 1}


def copy(ours: nn.Module, theirs: Any) -> None:
    for site, child in kit.at_sites(ours, "boft", BOFT):
        peft = layer(theirs, site)
        peft.boft_R["default"].copy_(child.R)
        peft.boft_s["default"].copy_(child.s[:, None])
