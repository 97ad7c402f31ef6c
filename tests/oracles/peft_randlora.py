"""RandLoRA: peft orders lambda and the columns of B otherwise, so that every layer gets a B of its own here."""

from __future__ import annotations

from typing import Any

from peft.tuners._buffer_dict import BufferDict
from torch import nn

from reference_impls import _kit as kit
from reference_impls.randlora import RandLoRA

from . import layer


def copy(ours: nn.Module, theirs: Any) -> None:
    for site, child in kit.at_sites(ours, "randlora", RandLoRA):
        peft = layer(theirs, site)
        scales = child.get_parameter("lambda")
        n, r = scales.shape
        b = child.shared.B[:n].permute(1, 2, 0).reshape(-1, n, r)       # (larger, r, n), cut anew into n by r
        peft.scaling["default"] = child.scale                           # peft leaves the root of n out
        peft.randlora_A = BufferDict({"default": child.shared.A[:, None]})
        peft.randlora_B = BufferDict({"default": b})
        peft.randlora_lambda["default"].copy_(scales.T)
        peft.randlora_gamma["default"].copy_(child.gamma)
