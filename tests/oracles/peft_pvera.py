"""PVeRA: peft has one random pair for all modules and no factor on the change."""

from __future__ import annotations

from typing import Any

from torch import nn

from reference_impls import _kit as kit
from reference_impls.pvera import PVeRA

from . import layer

SETTING = {"alpha": 1.0}


def copy(ours: nn.Module, theirs: Any) -> None:
    for site, child in kit.at_sites(ours, "pvera", PVeRA):
        peft = layer(theirs, site)
        del peft.pvera_A, peft.pvera_B
        # a pair of its own in place of the one that all modules share
        peft.pvera_A, peft.pvera_B = ({"default": matrix} for matrix in (child.shared.A, child.shared.B))
        peft.pvera_lambda_d["default"].copy_(child.lambda_d)
        peft.pvera_lambda_b["default"].copy_(child.lambda_b)
