"""KronA: the folded product is the Kronecker product, of full rank at the price of LoRA's rank one."""

from __future__ import annotations

import pytest
import torch

import peftonomy
from reference_impls import krona, lora

pytestmark = pytest.mark.torch


@pytest.mark.parametrize(("a1", "a2"), [(1, 1), (2, 3), (5, 4), (10, 12)])
def test_folding_the_input_is_the_kronecker_product(a1: int, a2: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(7, 5, 12, dtype=torch.float64)
    a = torch.randn(a1, a2, dtype=torch.float64)
    b = torch.randn(10 // a1, 12 // a2, dtype=torch.float64)
    assert torch.allclose(krona.kronecker(a, b, x), x @ torch.kron(a, b).T)


def test_full_rank_at_the_price_of_rank_one() -> None:
    torch.manual_seed(0)
    ours = krona.KronA(36, 36, a1=6, a2=6, scale=1.0)
    theirs = lora.LoRA(36, 36, r=1, alpha=1.0, dropout=0.0)
    for parameter in (*ours.parameters(), *theirs.parameters()):
        torch.nn.init.normal_(parameter)
    counts = [sum(p.numel() for p in m.parameters()) for m in (ours, theirs)]
    assert counts == [72, 72]
    assert torch.linalg.matrix_rank(ours.delta()) == 36
    assert torch.linalg.matrix_rank(theirs.delta()) == 1


def test_the_rank_is_the_product_of_the_ranks() -> None:
    torch.manual_seed(0)
    ours = krona.KronA(20, 30, a1=6, a2=4, scale=1.0)       # B is 5 x 5
    torch.nn.init.normal_(ours.B)
    with torch.no_grad():
        ours.A[2:] = ours.A[:1]
        ours.B[3:] = ours.B[:1]
    assert torch.linalg.matrix_rank(ours.A) == 2
    assert torch.linalg.matrix_rank(ours.B) == 3
    assert torch.linalg.matrix_rank(ours.delta()) == 6


def test_a_column_and_a_row_are_lora_of_rank_one() -> None:
    torch.manual_seed(0)
    ours = krona.KronA(12, 10, a1=10, a2=1, scale=3.0)
    theirs = lora.LoRA(12, 10, r=1, alpha=3.0, dropout=0.0)
    torch.nn.init.normal_(ours.B)
    with torch.no_grad():
        theirs.B.copy_(ours.A)
        theirs.A.copy_(ours.B)
    x, y = torch.randn(4, 12), torch.randn(4, 10)
    assert torch.allclose(ours.after(x, y), theirs.after(x, y), atol=1e-6)


def test_square_factors_cost_twice_the_width() -> None:
    cost = peftonomy.load()["krona"].cost("t5_base", a1=32, a2=24, targets=["attn.q"])
    assert cost.trained == 24 * 2 * 768
