"""MiCA: LoRA's factors. peft decomposes weights in single precision only."""

from __future__ import annotations

from typing import Any

from torch import nn

from . import factors

SINGLE = True


def copy(ours: nn.Module, theirs: Any) -> None:
    factors(ours, theirs, "mica")
