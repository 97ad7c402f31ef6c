"""LoRA's factors started as a part of the weight, which is taken out of it: what informed starts share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from . import _kit as kit
from . import lora

Start = Callable[[Tensor, int, float], tuple[Tensor, Tensor]]
"""Of a weight (d_out, d_in), a rank and a scale: the factors B (d_out, r) and A (r, d_in) to start with."""


@torch.no_grad()
def apply(
    model: nn.Module, start: Start, *, r: int, alpha: float, dropout: float, targets: tuple[str, ...], name: str
) -> nn.Module:
    """Put LoRA's factors beside every targeted weight, start them, and take their product out of the weight.

    Raises ValueError where the rank is larger than that of a weight.
    """
    lora.apply(model, r=r, alpha=alpha, dropout=dropout, targets=targets, name=name)
    for site, child in kit.at_sites(model, name, lora.LoRA):
        if r > min(site.d_in, site.d_out):
            raise ValueError(f"rank {r} is larger than that of a weight of {site.d_out} x {site.d_in}")
        b, a = start(site.weight, r, child.scale)
        child.B.copy_(b)
        child.A.copy_(a)
        site.weight.sub_(child.delta())
    return model
