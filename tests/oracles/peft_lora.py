"""LoRA: peft keeps the factors as linear maps of the same names."""

from __future__ import annotations

from typing import Any

from torch import nn

from . import factors


def copy(ours: nn.Module, theirs: Any) -> None:
    factors(ours, theirs, "lora")
