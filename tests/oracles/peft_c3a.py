"""C3A: peft keeps the same kernel."""

from __future__ import annotations

from typing import Any

from torch import nn

from reference_impls import _kit as kit
from reference_impls.c3a import C3A

from . import layer

FAMILIES = ("bert", "roberta", "t5", "llama", "vit")


def copy(ours: nn.Module, theirs: Any) -> None:
    for site, child in kit.at_sites(ours, "c3a", C3A):
        layer(theirs, site).c3a_kernel["default"].copy_(child.kernel)
