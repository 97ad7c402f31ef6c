"""PEM arithmetic: weighted sums of adapters, factor by factor (zhang2023pem; code_pem).

    A = sum_i lambda_i A_i,    B = sum_i s_i lambda_i B_i,    h = W_0 x + (alpha / r) B A x

Given: LoRAs of the same model, rank and targets. `combine` adds up their factors. s_i is -1 for a module that is
subtracted, and 1 otherwise. lambda_1 is `first`, and every other one is `others`. Nothing is trained. At inference the
product is added to W_0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from . import _kit as kit
from . import _merging, _recipe


def apply(
    model: nn.Module, *, tasks: int = 2, first: float = 0.5, others: float = 0.5, negated: int = 0, r: int = 8,
    alpha: float = 8.0, targets: tuple[str, ...] = ("attn.q", "attn.v", "xattn.q", "xattn.v"),
) -> nn.Module:
    """Freeze the model and put an empty adapter beside every targeted weight."""
    _recipe.keep(model, "pem_arithmetic", tasks=tasks, first=first, others=others, negated=negated)
    for site in kit.sites(model, targets):
        kit.attach(site, "pem_arithmetic", _merging.Pair(site.d_in, site.d_out, r=r, scale=alpha / r))
    return model


@torch.no_grad()
def combine(model: nn.Module, inputs: Sequence[_merging.Input]) -> nn.Module:
    """Add up the factors of trained LoRAs, which have the same rank and targets. The last ones may be subtracted."""
    given = _merging.settings(model, inputs, "pem_arithmetic")
    weights = [given["first"]] + [given["others"]] * (len(inputs) - 1)
    for _, total in kit.at_sites(model, "pem_arithmetic", _merging.Pair):
        a, b = _merging.pair(total, "pem_arithmetic")
        for i, (one, weight) in enumerate(zip(inputs, weights, strict=True)):
            sign = -1 if i >= len(inputs) - given["negated"] else 1
            total.A.add_(one[a], alpha=weight)
            total.B.add_(one[b], alpha=sign * weight)
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the products to the weights."""
    return kit.fold(model, "pem_arithmetic")


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Combine recorded adapters of one module and run it; for the golden vectors."""
    [(site, total)] = kit.at_sites(model, "pem_arithmetic", _merging.Pair)
    combine(model, _merging.adapters(total, "pem_arithmetic", inputs))
    return {"output": site.module(inputs["x"]), "A": total.A, "B": total.B}
