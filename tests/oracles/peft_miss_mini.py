"""MiSS-mini: peft keeps the shard as a parameter of the same shape."""

from __future__ import annotations

from typing import Any

from torch import nn

from reference_impls import _kit as kit
from reference_impls.miss import Shard

from . import layer


def copy(ours: nn.Module, theirs: Any) -> None:
    for site, child in kit.at_sites(ours, "miss_mini", Shard):
        layer(theirs, site).miss_block["default"].copy_(child.D)
