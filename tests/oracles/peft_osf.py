"""OSF: peft keeps the trained part's start beside it, decomposed in 32 bits, which is done again here in 64."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from reference_impls import _kit as kit
from reference_impls.osf import OSF

from . import layer

FAMILIES = ("bert", "roberta", "t5", "llama", "vit")


def copy(ours: nn.Module, theirs: Any) -> None:
    for site, child in kit.at_sites(ours, "osf", OSF):
        peft, n = layer(theirs, site), len(child.S)
        u, s, v = torch.linalg.svd(peft.base_layer.weight, full_matrices=False)
        for name, start in (("U", u[:, -n:]), ("S", s[-n:]), ("V", v[-n:])):
            getattr(peft, f"_osf_{name}_low_init")["default"].copy_(start)
            peft.osf_svd_params["default"][f"{name}_low"].copy_(getattr(child, name))
