"""PaRa: peft keeps the matrices under the same letters."""

from __future__ import annotations

from typing import Any

from torch import nn

from reference_impls import _kit as kit
from reference_impls.para import PaRa

from . import layer


def copy(ours: nn.Module, theirs: Any) -> None:
    for site, child in kit.at_sites(ours, "para", PaRa):
        peft = layer(theirs, site)
        peft.deft_P["default"].copy_(child.P)
