"""Lily: peft keeps the pool as one linear map, and shares as we do where no suffix means modules of two roles."""

from __future__ import annotations

from typing import Any

from torch import nn

from reference_impls import _kit as kit
from reference_impls.lily import Lily

from . import layer

FAMILIES = ("bert", "roberta", "llama", "vit")      # in T5 the suffix q shares with cross attention


def copy(ours: nn.Module, theirs: Any) -> None:
    for site, child in kit.at_sites(ours, "lily", Lily):
        peft = layer(theirs, site)
        peft.lily_A["default"].weight.copy_(child.shared.A[child.group])
        peft.lily_B["default"].weight.copy_(child.shared.B.flatten(0, 1))
        peft.lily_router["default"].weight.copy_(child.router)
