"""HiRA: peft keeps the factors as parameters of the same shapes."""

from __future__ import annotations

from typing import Any

from torch import nn

from reference_impls import _kit as kit
from reference_impls.hira import Multiplier

from . import layer


def copy(ours: nn.Module, theirs: Any) -> None:
    for site, child in kit.at_sites(ours, "hira", Multiplier):
        peft = layer(theirs, site)
        peft.hira_A["default"].copy_(child.A)
        peft.hira_B["default"].copy_(child.B)
