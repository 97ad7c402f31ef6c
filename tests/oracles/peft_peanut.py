"""PEANuT: peft keeps every matrix as a linear map of the same shape."""

from __future__ import annotations

from typing import Any

from torch import nn

from reference_impls import _kit as kit
from reference_impls.peanut import Tweaker

from . import layer

SETTING = {"act_fn": "relu"}


def copy(ours: nn.Module, theirs: Any) -> None:
    for site, child in kit.at_sites(ours, "peanut", Tweaker):
        peft = layer(theirs, site)
        peft.peanut_A["default"].weight.copy_(child.A)
        peft.peanut_B["default"].weight.copy_(child.B)
        for mine, own in ((peft.peanut_encoders, child.enc), (peft.peanut_decoders, child.dec)):
            for linear, weight in zip(mine["default"], own, strict=True):
                linear.weight.copy_(weight)
