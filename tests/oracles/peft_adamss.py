"""AdaMSS: peft keeps a list of small matrices, one for each cluster, and which outputs are in which."""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.adamss import layer as peft_layer
from torch import Tensor, nn

from reference_impls import _kit as kit
from reference_impls.adamss import AdaMSS

from . import layer

FAMILIES = ("bert", "roberta", "t5", "llama", "vit")


def _in_turn(rows: Tensor, clusters: int, _: int) -> tuple[Tensor, int]:
    return torch.arange(len(rows)) % clusters, clusters


# peft clusters with scikit-learn; our clusters are put in the place of any below.
peft_layer.clustering_Z = _in_turn


def copy(ours: nn.Module, theirs: Any) -> None:
    for site, child in kit.at_sites(ours, "adamss", AdaMSS):
        peft = layer(theirs, site)
        members = [(child.cluster == k).nonzero()[:, 0] for k in range(len(child.A))]
        peft.adamss_newB["default"].copy_(child.V)
        peft.adamss_A["default"] = nn.ParameterList(nn.Parameter(a) for a in child.A)
        peft.adamss_B["default"] = nn.ParameterList(nn.Parameter(child.B[rows]) for rows in members)
        peft.scatter_index["default"] = torch.cat(members)
