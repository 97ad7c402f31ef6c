"""MTL-LoRA: the same tensors under other names, where every projection is a module of its own."""

from __future__ import annotations

from torch import Tensor, nn

from reference_impls import _kit as kit
from reference_impls.mtl_lora import TaskLoRA

FAMILIES = ("bert", "roberta", "t5", "llama")
NAMES = {"lora_A": "A", "lora_B": "B", "weights": "w", "task_specific.values": "Lambda"}


def tensors(ours: nn.Module) -> dict[str, Tensor]:
    return {
        f"{site.path}.loras.a.{theirs}": child.get_parameter(mine)
        for site, child in kit.at_sites(ours, "mtl_lora", TaskLoRA)
        for theirs, mine in NAMES.items()
    }
