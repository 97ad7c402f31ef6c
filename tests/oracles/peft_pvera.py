"""PVeRA: peft keeps the random pair in a dictionary that all layers share."""

from __future__ import annotations

from typing import Any

from torch import nn

from reference_impls import _kit as kit
from reference_impls.pvera import PVeRA

from . import layer


def copy(ours: nn.Module, theirs: Any) -> None:
    for site, child in kit.at_sites(ours, "pvera", PVeRA):
        peft = layer(theirs, site)
        peft.pvera_A["default"].copy_(child.shared.A)
        peft.pvera_B["default"].copy_(child.shared.B)
        peft.pvera_lambda_d["default"].copy_(child.lambda_d)
        peft.pvera_lambda_b["default"].copy_(child.lambda_b)
