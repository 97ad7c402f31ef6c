"""FRoD: peft keeps positions as rows and columns, and a basis for each kind of module."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from reference_impls import _kit as kit
from reference_impls.frod import FRoD

from . import layer

torch.sparse.check_sparse_tensor_invariants.disable()       # the default, but peft's sparse product warns unless told


def copy(ours: nn.Module, theirs: Any) -> None:
    for site, child in kit.at_sites(ours, "frod", FRoD):
        peft = layer(theirs, site)
        positions = child.shared.positions
        peft.frod_V["default"] = child.shared.V
        peft.frod_s_indices["default"] = torch.stack([positions // site.d_in, positions % site.d_in])
        peft.frod_U["default"] = child.U
        peft.frod_lambda_l["default"].copy_(child.lambda_l)
        peft.frod_lambda_s_values["default"].copy_(child.lambda_s)
