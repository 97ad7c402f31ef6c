"""LN-tuning: peft trains a copy of every norm."""

from __future__ import annotations

from typing import Any

from torch import nn

from reference_impls import _kit as kit

FAMILIES = ("t5", "gpt2", "llama")      # those whose norms peft knows by name


def copy(ours: nn.Module, theirs: Any) -> None:
    for weight in kit.weights(ours):
        if weight.value.requires_grad:
            path, _, suffix = weight.name.rpartition(".")
            norm = theirs.base_model.model.get_submodule(path).ln_tuning_layers["default"]
            getattr(norm, suffix).copy_(weight.value)
