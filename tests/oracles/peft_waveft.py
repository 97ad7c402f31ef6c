"""WaveFT: peft keeps positions as rows and columns."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from reference_impls import _kit as kit
from reference_impls.waveft import WaveFT

from . import layer


def copy(ours: nn.Module, theirs: Any) -> None:
    for site, child in kit.at_sites(ours, "waveft", WaveFT):
        peft = layer(theirs, site)
        positions = child.shared.positions
        peft.waveft_indices["default"] = torch.stack([positions // site.d_in, positions % site.d_in])
        peft.waveft_spectrum["default"].copy_(child.spectrum)
