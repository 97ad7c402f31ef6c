"""OLoRA: LoRA's factors. peft decomposes weights in single precision only, and takes the same part out of them."""

from __future__ import annotations

from typing import Any

from torch import nn

from . import factors

SINGLE = True


def copy(ours: nn.Module, theirs: Any) -> None:
    factors(ours, theirs, "olora")
