"""PSOFT: peft keeps the rotation in a layer of its own, and the factors of the decomposition in a cache."""

from __future__ import annotations

from typing import Any

from torch import nn

from reference_impls import _kit as kit
from reference_impls.psoft import PSOFT

from . import layer

FAMILIES = ("bert", "roberta", "t5", "llama", "vit")
SETTING = {"num_cayley_neumann_terms": 3}
SINGLE = True                           # peft decomposes nothing wider


def copy(ours: nn.Module, theirs: Any) -> None:
    for site, child in kit.at_sites(ours, "psoft", PSOFT):
        peft = layer(theirs, site)
        rotation = peft.psoft_R["default"]
        rotation.weight.copy_(child.Q)
        rotation.vector_a.copy_(child.a)
        rotation.vector_b.copy_(child.b)
        peft._psoft_A_cache["default"].copy_(child.A)               # singular vectors have a sign that is free
        peft._psoft_B_cache["default"].copy_(child.B)
