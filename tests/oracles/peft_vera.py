"""VeRA: peft keeps the random pair in a dictionary that all layers share."""

from __future__ import annotations

from typing import Any

from torch import nn

from reference_impls import _kit as kit
from reference_impls.vera import VeRA

from . import layer


def copy(ours: nn.Module, theirs: Any) -> None:
    for site, child in kit.at_sites(ours, "vera", VeRA):
        peft = layer(theirs, site)
        peft.vera_A["default"].copy_(child.shared.A)
        peft.vera_B["default"].copy_(child.shared.B)
        peft.vera_lambda_d["default"].copy_(child.lambda_d)
        peft.vera_lambda_b["default"].copy_(child.lambda_b)
