"""The invertible adapter in LLaMA, which has no other embeddings; the library undoes it in heads of its own only."""

from __future__ import annotations

from typing import Any

from torch import Tensor

FAMILIES = ("llama",)


def tensors(ours: Any) -> dict[str, Tensor]:
    ours.get_output_embeddings()._forward_pre_hooks.clear()         # that deviation
    return {f"model.invertible_adapters.a.{name}": p for name, p in ours.invertible_adapter.named_parameters()}
