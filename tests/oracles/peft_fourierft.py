"""FourierFT: peft keeps positions as rows and columns."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from reference_impls import _kit as kit
from reference_impls.fourierft import FourierFT

from . import layer

SETTING = {"scaling": 100.0}        # peft transforms in single precision, and the factor multiplies its rounding


def copy(ours: nn.Module, theirs: Any) -> None:
    for site, child in kit.at_sites(ours, "fourierft", FourierFT):
        peft = layer(theirs, site)
        positions = child.shared.positions
        peft.indices["default"] = torch.stack([positions // site.d_in, positions % site.d_in])
        peft.fourierft_spectrum["default"].copy_(child.spectrum)
