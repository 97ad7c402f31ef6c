"""LoRA: on a fused projection, the factors of all that is adapted of it are stacked, and zero where it is not."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from reference_impls import _kit as kit
from reference_impls.lora import LoRA

FAMILIES = ("bert", "roberta", "t5", "gpt2", "llama")


def tensors(ours: nn.Module) -> dict[str, Tensor]:
    at: dict[str, list[LoRA]] = {}
    for site, child in kit.at_sites(ours, "lora", LoRA):
        at.setdefault(f"{site.path}.loras.a", []).append(child)
    return {
        f"{path}.lora_{name}": torch.cat([child.get_parameter(name) for child in children])
        for path, children in at.items()
        for name in "AB"
    }
