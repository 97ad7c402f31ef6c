"""PaRa lowers the rank of a weight by r; DEFT, with what it puts in, changes it by rank r and can give it back."""

from __future__ import annotations

import pytest
import torch

from reference_impls.deft import DEFT
from reference_impls.para import PaRa

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("r", [1, 3, 5])
def test_the_rank_falls_by_r(r: int) -> None:
    torch.manual_seed(0)
    weight = torch.randn(9, 12, dtype=torch.float64)
    para = PaRa(9, r=r).double()
    left = weight + para.delta(weight)
    assert torch.linalg.matrix_rank(left) == 9 - r
    assert torch.allclose(left + para.delta(left), left)                    # a projection


def test_without_injection_deft_is_para() -> None:
    torch.manual_seed(0)
    weight = torch.randn(9, 12, dtype=torch.float64)
    para = PaRa(9, r=3).double()
    deft = DEFT(weight, r=3, alpha=6.0, decomposition="qr", dropout=0.0)
    with torch.no_grad():
        deft.P.copy_(para.P)
        deft.R.zero_()
    assert torch.allclose(deft.delta(weight), para.delta(weight))
