"""DoRA, where the library's is the same: no bias to scale, and alpha equal to r."""

from __future__ import annotations

from torch import Tensor, nn

from reference_impls import _kit as kit
from reference_impls.dora import DoRA

FAMILIES = ("t5", "llama")
SETTING = {"r": 2, "alpha": 2.0}


def tensors(ours: nn.Module) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for site, child in kit.at_sites(ours, "dora", DoRA):
        names = {"lora_A": child.A, "lora_B": child.B, "m.weight": child.m[:, None]}
        found |= {f"{site.path}.loras.a.{name}": value for name, value in names.items()}
    return found
