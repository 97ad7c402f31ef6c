"""Super-tuning: peft finds the same positions, in the same flattened weight."""

from __future__ import annotations

from typing import Any

from torch import nn

from reference_impls import _kit as kit
from reference_impls.shira import SHiRA

from . import layer

FAMILIES = ("bert", "roberta", "t5", "llama", "vit")
SETTING = {"sparsity": 0.75}


def copy(ours: nn.Module, theirs: Any) -> None:
    for site, child in kit.at_sites(ours, "super_tuning", SHiRA):
        peft = layer(theirs, site)
        assert set(peft.supertuning_indices["default"].tolist()) == set(child.positions.tolist())
        peft.supertuning_indices["default"].copy_(child.positions)
        peft.supertuning_values["default"].copy_(child.values)
