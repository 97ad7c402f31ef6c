"""AdaMSS: peft keeps a list of small matrices, one for each cluster, and which outputs are in which."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
from peft import AdamssConfig
from peft.tuners.adamss import layer as peft_layer
from torch import Tensor, nn

from reference_impls import _kit as kit
from reference_impls.adamss import AdaMSS

from . import layer

FAMILIES = ("bert", "roberta", "t5", "llama", "vit")


CHECKED = AdamssConfig.__post_init__


def _unchecked(config: AdamssConfig) -> None:
    with patch.dict(sys.modules, sklearn=ModuleType("sklearn")):
        CHECKED(config)


def _in_turn(rows: Tensor, clusters: int, _: int) -> tuple[Tensor, int]:
    return torch.arange(len(rows)) % clusters, clusters


# peft asks for scikit-learn, and clusters by it. Our clusters are put in the place of any below.
AdamssConfig.__post_init__ = _unchecked
peft_layer.clustering_Z = _in_turn


def copy(ours: nn.Module, theirs: Any) -> None:
    for site, child in kit.at_sites(ours, "adamss", AdaMSS):
        peft = layer(theirs, site)
        members = [(child.cluster == k).nonzero()[:, 0] for k in range(len(child.A))]
        peft.adamss_newB["default"].copy_(child.V)
        peft.adamss_A["default"] = nn.ParameterList(nn.Parameter(a) for a in child.A)
        peft.adamss_B["default"] = nn.ParameterList(nn.Parameter(child.B[rows]) for rows in members)
        peft.scatter_index["default"] = torch.cat(members)
