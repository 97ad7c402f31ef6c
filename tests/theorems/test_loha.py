"""LoHa: rank r squared at the price of LoRA's rank 2r, and LoRA itself where one product is constant."""

from __future__ import annotations

import pytest
import torch

from reference_impls import loha, lora

pytestmark = pytest.mark.torch


def test_rank_r_squared_at_the_price_of_rank_two_r() -> None:
    torch.manual_seed(0)
    ours = loha.LoHa(40, 36, r=5, alpha=5.0)
    theirs = lora.LoRA(40, 36, r=10, alpha=10.0, dropout=0.0)
    for parameter in (*ours.parameters(), *theirs.parameters()):
        torch.nn.init.normal_(parameter)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    assert torch.linalg.matrix_rank(ours.delta()) == 25
    assert torch.linalg.matrix_rank(theirs.delta()) == 10


def test_with_a_second_product_of_ones_it_is_lora() -> None:
    torch.manual_seed(0)
    ours = loha.LoHa(12, 10, r=3, alpha=6.0)
    theirs = lora.LoRA(12, 10, r=3, alpha=6.0, dropout=0.0)
    with torch.no_grad():
        ours.w2_a.fill_(1 / 3)
        ours.w2_b.fill_(1.0)
        theirs.B.copy_(ours.w1_a)
        theirs.A.copy_(ours.w1_b)
    x, y = torch.randn(4, 12), torch.randn(4, 10)
    assert torch.allclose(ours.after(x, y), theirs.after(x, y), atol=1e-5)
