"""Prefix-tuning without its MLP: one long vector for all layers, held by the first attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from reference_impls import _kit as kit

FAMILIES = ("bert", "roberta", "gpt2")
SETTING = {"use_mlp": False}


def tensors(ours: nn.Module) -> dict[str, Tensor]:
    blocks = kit.blocks(ours, "attention")
    prefixes = [block.module.get_submodule("prefix_tuning") for block in blocks]
    rows = [prefix.get_parameter(name) for prefix in prefixes for name in ("P_k", "P_v")]
    pool = f"{blocks[0].path}.prefix_tuning.pool.prefix_tunings.a"
    return {f"{pool}.self_prefix.control_trans": torch.stack(rows, dim=1).flatten()}
