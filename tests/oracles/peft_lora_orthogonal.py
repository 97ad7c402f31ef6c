"""The orthogonal start of LoRA: the same factors, which peft draws for even ranks."""

from __future__ import annotations

from typing import Any

from torch import nn

from . import factors


def copy(ours: nn.Module, theirs: Any) -> None:
    factors(ours, theirs, "lora_orthogonal")
