"""VB-LoRA: peft has the same three tensors."""

from __future__ import annotations

from typing import Any

from torch import nn

from reference_impls import _kit as kit
from reference_impls.vb_lora import VBLoRA

from . import layer

SETTING = {"num_vectors": 5}


def copy(ours: nn.Module, theirs: Any) -> None:
    for site, child in kit.at_sites(ours, "vb_lora", VBLoRA):
        peft = layer(theirs, site)
        peft.vblora_vector_bank["default"].copy_(child.shared.bank)
        peft.vblora_logits_A["default"].copy_(child.logits_A)
        peft.vblora_logits_B["default"].copy_(child.logits_B)
