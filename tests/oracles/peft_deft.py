"""DEFT: peft keeps the matrices under the same letters."""

from __future__ import annotations

from typing import Any

from torch import nn

from reference_impls import _kit as kit
from reference_impls.deft import DEFT

from . import layer


def copy(ours: nn.Module, theirs: Any) -> None:
    for site, child in kit.at_sites(ours, "deft", DEFT):
        peft = layer(theirs, site)
        peft.deft_P["default"].copy_(child.P)
        peft.deft_R["default"].copy_(child.R)
