"""HydraLoRA: the weights of the heads depend on the token; a router that sees no difference leaves one LoRA."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import hydralora

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("routed", [True, False])
def test_only_the_router_makes_it_more_than_one_lora(routed: bool) -> None:
    torch.manual_seed(0)
    model = hydralora.apply(tiny.model("llama"), r=2, alpha=2.0, heads=3, dropout=0.0, targets=("mlp.up",))
    shake(model)
    [(site, child), *_] = kit.at_sites(model, "hydralora", hydralora.Hydra)
    if not routed:
        child.G.data.zero_()
    x, y = torch.randn(7, site.d_in).to(child.A), torch.randn(7, site.d_in).to(child.A)
    zeros = torch.zeros(7, site.d_out).to(child.A)
    change = [child.after(z, zeros) for z in (x, y, x + y)]
    mean = x @ child.A.T @ child.B.mean(0).T
    assert torch.allclose(change[0] + change[1], change[2]) != routed, "linear in the input only without a router"
    assert torch.allclose(change[0], mean) != routed, "then the heads are one: their mean"
