"""SHiRA: peft keeps row and column of every position, outside its state dict."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from reference_impls import _kit as kit
from reference_impls.shira import SHiRA

from . import layer

FAMILIES = ("bert", "roberta", "t5", "llama", "vit")


def copy(ours: nn.Module, theirs: Any) -> None:
    for site, child in kit.at_sites(ours, "shira", SHiRA):
        peft = layer(theirs, site)
        peft.shira_indices["default"] = torch.stack([child.positions // site.d_in, child.positions % site.d_in])
        peft.shira_weight["default"].copy_(child.values)
