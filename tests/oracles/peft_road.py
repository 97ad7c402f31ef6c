"""RoAd: peft keeps angles and lengths as vectors of the same order."""

from __future__ import annotations

from typing import Any

from torch import nn

from reference_impls import _kit as kit
from reference_impls.road import RoAd

from . import layer

FAMILIES = ("bert", "roberta", "t5", "llama", "vit")
SETTING = {"variant": "road_4"}


def copy(ours: nn.Module, theirs: Any) -> None:
    for site, child in kit.at_sites(ours, "road", RoAd):
        peft = layer(theirs, site)
        peft.road_theta["default"].copy_(child.theta)
        peft.road_alpha["default"].copy_(child.alpha)
