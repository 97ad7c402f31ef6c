"""The Pfeiffer adapter is the library's own."""

from __future__ import annotations

from torch import Tensor, nn

from reference_impls import _kit as kit

from ._bottlenecks import parts, place

FAMILIES = ("bert", "roberta", "t5", "gpt2", "llama")


def tensors(ours: nn.Module) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for layer in kit.blocks(ours, "layer"):
        found |= parts(place(layer.sites["mlp.down"]), layer.module.pfeiffer_adapter)
    return found
