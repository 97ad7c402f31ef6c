"""LoReFT: a unit for the first tokens and one for the last. Encoder-decoders take the encoder's padding for both."""

from __future__ import annotations

from torch import Tensor, nn

from reference_impls import _kit as kit
from reference_impls.loreft import Intervention

FAMILIES = ("bert", "roberta", "gpt2", "llama")
SETTING = {"prefix_positions": 1, "suffix_positions": 2, "tied": False}
"""No more than the shortest input has, since the library edits twice where both ends meet."""


def tensors(ours: nn.Module, name: str = "loreft") -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for layer in kit.blocks(ours, "layer"):
        child = layer.module.get_submodule(name)
        assert isinstance(child, Intervention)
        for i in range(len(child.R)):
            unit = f"{layer.path}.reft_layer.refts.a.units.{i}"
            found[f"{unit}.projection.weight"] = child.directions(i)
            found[f"{unit}.learned_source.weight"] = child.W[i]
            found[f"{unit}.learned_source.bias"] = child.b[i]
    return found
