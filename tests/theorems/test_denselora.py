"""DenseLoRA: no linear correction. It has a lower bound, and one layer's training moves the others."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import denselora

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_correction_that_raises_more_than_it_lowers(family: str) -> None:
    model = denselora.apply(tiny.model(family), r=3, alpha=6.0, dropout=0.0, targets=("attn.q", "mlp.down"))
    shake(model)
    for site, child in kit.at_sites(model, "denselora", denselora.Dense):
        child.pair.D.data.mul_(100)
        x = torch.randn(50, site.d_in).double()
        change = child.after(x, x.new_zeros(50, site.d_out))
        assert change.min() > -0.18 * child.scale
        assert change.max() > child.scale
        assert not torch.allclose(child.after(-x, torch.zeros_like(change)), -change)


def test_layers_share_the_wide_matrices() -> None:
    model = denselora.apply(tiny.model("llama"), r=3, alpha=6.0, dropout=0.0, targets=("attn.q",))
    [first, second] = [child for _, child in kit.at_sites(model, "denselora", denselora.Dense)]
    assert first.pair is second.pair
    assert first.M is not second.M
    x = torch.randn(5, first.site.d_in if first.site else 0).double()
    before = second.after(x, torch.zeros(5, len(first.pair.D)).double())
    assert not before.any(), "it starts without an effect"
    first.pair.D.data.normal_()
    assert second.after(x, torch.zeros_like(before)).any()
