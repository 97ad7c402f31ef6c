"""LoKr: KronA where nothing is split, and a rank that is the product of the two."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance import checks
from peftonomy.conformance.trial import Trial
from reference_impls import krona, lokr

pytestmark = pytest.mark.torch


def test_a_large_rank_makes_krona() -> None:
    torch.manual_seed(0)
    ours = lokr.LoKr(12, 18, r=4, alpha=2.0, decompose_factor=3, decompose_both=True)
    theirs = krona.KronA(12, 18, a1=3, a2=3, scale=1.0)
    torch.nn.init.normal_(ours.factor("w2"))
    with torch.no_grad():
        theirs.A.copy_(ours.factor("w1"))
        theirs.B.copy_(ours.factor("w2"))
    x, y = torch.randn(4, 12), torch.randn(4, 18)
    assert torch.equal(ours.after(x, y), theirs.after(x, y))


def test_the_rank_is_the_product_of_both() -> None:
    torch.manual_seed(0)
    ours = lokr.LoKr(48, 64, r=2, alpha=2.0, decompose_factor=8, decompose_both=False)
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter)
    assert sum(p.numel() for p in ours.parameters()) == 64 + 2 * (8 + 6)
    assert torch.linalg.matrix_rank(ours.delta()) == 8 * 2


@pytest.mark.parametrize("check", checks.CHECKS, ids=lambda check: check.__name__)
def test_both_factors_split(check: checks.Check) -> None:
    setting = {"r": 1, "alpha": 3.0, "decompose_factor": 4, "decompose_both": True}
    check(Trial("lokr", "gpt2", setting, ("attn.q", "attn.v")))
