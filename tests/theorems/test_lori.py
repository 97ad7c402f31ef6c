"""LoRI: the entries that a first training moved most are trained again from zero, and no others."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import lori

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_largest_entries_over_all_weights_are_trained_from_zero(family: str) -> None:
    model = lori.apply(tiny.model(family), r=3, alpha=6.0, kept=0.2, targets=("attn.q", "mlp.down"))
    factors = [child.B for _, child in kit.at_sites(model, "lori", lori.LoRI)]
    first = torch.autograd.grad(tiny.loss(model, family), factors)
    lori.calibrate(model, (tiny.loss(model, family) for _ in range(1)))
    assert not any(factor.any() for factor in factors), "training starts again"
    sizes = torch.cat([gradient.abs().flatten() for gradient in first])
    count = int(0.2 * len(sizes))
    threshold = sizes.sort(descending=True).values[count - 1]
    optimiser: Any = torch.optim.AdamW(factors, lr=0.1, weight_decay=0.0)
    for _ in range(3):
        optimiser.zero_grad()
        tiny.loss(model, family).backward()
        optimiser.step()
    moved = torch.cat([(factor != 0).flatten() for factor in factors])
    assert torch.equal(moved, sizes >= threshold)
    shares = [float((factor != 0).double().mean()) for factor in factors]
    assert max(shares) > 1.2 * min(shares), "one ranking over all weights, so the modules keep different shares"
