"""DeLoRA: peft has the same trained parameters, finds the lengths of the columns itself, and subtracts no start."""

from __future__ import annotations

from typing import Any

from torch import nn

from reference_impls import _kit as kit
from reference_impls.delora import Bounded

from . import layer


def copy(ours: nn.Module, theirs: Any) -> None:
    for site, child in kit.at_sites(ours, "delora", Bounded):
        peft = layer(theirs, site)
        peft.delora_A["default"].copy_(child.A)
        peft.delora_B["default"].copy_(child.B)
        peft.delora_lambda["default"].copy_(child.lam)
        child.B_0.zero_()       # that deviation
