"""GOAT: the experts are the heads of the weight's spectral segments, and equal use of all gives the weight back."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import goat, pissa

pytestmark = pytest.mark.torch


def _child(weight: torch.Tensor, scale: str = "plain", rho: float = 10.0) -> tuple[goat.GOAT, torch.Tensor]:
    torch.manual_seed(0)
    child = goat.GOAT(9, 10, r=6, alpha=5.0, experts=3, top_k=2, scale=scale, dropout=0.0).double()
    return child, child.start(weight, rho)


@pytest.mark.parametrize("scale", ["plain", "derived"])
def test_each_expert_holds_the_strongest_values_of_its_segment(scale: str) -> None:
    torch.manual_seed(1)
    weight = torch.randn(10, 9, dtype=torch.float64)
    child, _ = _child(weight, scale)
    values = torch.linalg.svdvals(weight)
    for i, (b, a) in enumerate(zip(child.B, child.A, strict=True)):
        own = torch.linalg.svdvals(child.scale * b @ a)[:2]
        assert torch.allclose(own, values[3 * i : 3 * i + 2] / 10)
        assert torch.allclose(a @ a.T, b.T @ b), "both factors have the roots"


def test_equal_use_of_all_experts_gives_the_pretrained_weight() -> None:
    torch.manual_seed(1)
    weight, x = torch.randn(10, 9, dtype=torch.float64), torch.randn(4, 9, dtype=torch.float64)
    child, mean = _child(weight)
    child.top_k = 3
    child.G.data.zero_()
    assert torch.allclose(child.after(x, x @ (weight - mean).T), x @ weight.T)
    child.G.data.normal_()
    assert not torch.allclose(child.after(x, x @ (weight - mean).T), x @ weight.T, atol=1e-3)


def test_one_expert_with_undivided_values_starts_as_pissa() -> None:
    model = goat.apply(tiny.model("llama"), r=3, alpha=6.0, experts=1, top_k=1, rho=1.0, targets=("attn.q",))
    plain = kit.sites(tiny.plain("llama"), ("attn.q",))
    for (site, child), before in zip(kit.at_sites(model, "goat", goat.GOAT), plain, strict=True):
        b, a = pissa.principal(before.weight, 3, 2.0)
        assert torch.allclose(child.B[0] @ child.A[0], b @ a)
        assert torch.allclose(site.weight, before.weight - 2 * b @ a)


def test_the_derived_scale_follows_the_width_and_the_balance_counts_each_choice() -> None:
    child, _ = _child(torch.eye(10, 9, dtype=torch.float64), "derived")
    assert child.scale == pytest.approx((3 * 9 / 2) ** 0.5)
    child.G.data.zero_()
    assert float(child.imbalance(torch.ones(5, 9, dtype=torch.float64)).detach()) == pytest.approx(2.0)
    with pytest.raises(ValueError, match="rank 64 is larger"):
        goat.apply(tiny.model("llama"), r=64, targets=("attn.q",))
