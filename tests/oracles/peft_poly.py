"""Polytropon: peft has the same shapes; it wants to be told the task of each example of the batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from reference_impls import _kit as kit
from reference_impls.poly import Skills

from . import layer

BATCH = 4       # of the tiny models


def copy(ours: nn.Module, theirs: Any) -> None:
    for site, child in kit.at_sites(ours, "poly", Skills):
        peft = layer(theirs, site)
        peft.poly_lora_A["default"].copy_(child.A)
        peft.poly_lora_B["default"].copy_(child.B)
        peft.poly_router["default"].module_logits.copy_(child.Z)
    theirs.base_model._register_pre_hooks(torch.zeros(BATCH, dtype=torch.long))
