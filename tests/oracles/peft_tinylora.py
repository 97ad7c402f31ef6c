"""TinyLoRA: peft keeps the same tensors, and the vectors in its own order, which untied vectors do not depend on."""

from __future__ import annotations

from typing import Any

from torch import nn

from reference_impls import _kit as kit
from reference_impls.tinylora import TinyLoRA

from . import layer


def copy(ours: nn.Module, theirs: Any) -> None:
    for site, child in kit.at_sites(ours, "tinylora", TinyLoRA):
        peft = layer(theirs, site)
        for name, value in child.named_buffers():
            getattr(peft, f"tinylora_{name}")["default"].copy_(value)
        peft.tinylora_v["default"][peft._tinylora_v_key["default"]].copy_(child.shared.v[child.group])
