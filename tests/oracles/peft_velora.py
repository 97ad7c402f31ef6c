"""VeLoRA: LoRA's factors; gradients are compared in its theorem."""

from __future__ import annotations

from typing import Any

from torch import nn

from . import factors


def copy(ours: nn.Module, theirs: Any) -> None:
    factors(ours, theirs, "velora")
