"""KaSA: LoRA's factors, and the sizes between them. peft decomposes in single precision, and has no Conv1D."""

from __future__ import annotations

from typing import Any

from torch import nn

from reference_impls import _kit as kit
from reference_impls.kasa import KaSA

from . import factors, layer

FAMILIES = ("bert", "roberta", "t5", "llama", "vit")
SINGLE = True


def copy(ours: nn.Module, theirs: Any) -> None:
    factors(ours, theirs, "kasa")
    for site, child in kit.at_sites(ours, "kasa", KaSA):
        layer(theirs, site).lora_diag["default"].copy_(child.Sigma)
