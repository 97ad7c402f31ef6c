"""VeRA, whose vectors are the diagonals of full matrices there; only where all weights are of one shape."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from reference_impls import _kit as kit
from reference_impls.vera import VeRA

FAMILIES = ("bert", "roberta", "t5")


def tensors(ours: Any) -> dict[str, Tensor]:
    base = ours.base_model_prefix + "." if ours.base_model is not ours else ""
    pair = f"{base}shared_parameters.a"
    found = {f"{pair}.lora_A": ours.vera.A, f"{pair}.lora_B": ours.vera.B}
    for site, child in kit.at_sites(ours, "vera", VeRA):
        found[f"{site.path}.loras.a.vera_D"] = torch.diag(child.lambda_d)
        found[f"{site.path}.loras.a.vera_B"] = torch.diag(child.lambda_b)
    return found
