"""MoSLoRA: the mixer changes how training proceeds, and nothing that a plain LoRA of the same rank cannot express."""

from __future__ import annotations

import copy

import pytest
import torch

from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import lora, moslora

pytestmark = pytest.mark.torch


def test_folded_into_a_factor_it_is_a_plain_lora() -> None:
    model = moslora.apply(tiny.model("llama"), r=3, alpha=6.0, dropout=0.0, targets=("attn.q", "mlp.down"))
    shake(model)
    plain = lora.apply(tiny.model("llama"), r=3, alpha=6.0, targets=("attn.q", "mlp.down"))
    sites = zip(kit.at_sites(model, "moslora", moslora.MoSLoRA), kit.at_sites(plain, "lora", lora.LoRA), strict=True)
    for (_, mixed), (_, child) in sites:
        child.A.data = mixed.M.data @ mixed.A.data
        child.B.data = mixed.B.data
    assert torch.allclose(tiny.loss(model, "llama"), tiny.loss(plain, "llama"))


@pytest.mark.parametrize("factor", ["M", "B"])
def test_one_zero_between_the_ends_lets_gradients_through_and_two_do_not(factor: str) -> None:
    torch.manual_seed(0)
    model = moslora.apply(tiny.model("bert"), r=2, dropout=0.0, targets=("attn.v",))
    [child, *_] = [child for _, child in kit.at_sites(model, "moslora", moslora.MoSLoRA)]
    both = copy.deepcopy(child)
    x, y = torch.randn(5, child.A.shape[1]).to(child.A), torch.zeros(5, len(child.B)).to(child.A)
    child.after(x, y).sum().backward()
    assert child.B.grad is not None
    assert bool(child.B.grad.any()), "the start of the authors' code"
    both.M.data.zero_()
    both.after(x, y).sum().backward()
    assert not getattr(both, factor).grad.any(), "a mixer at zero would never train"
