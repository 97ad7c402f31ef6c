"""PSOFT: without the vectors the principal part of the weight keeps its Gram matrix, and the rest is left alone."""

from __future__ import annotations

import pytest
import torch

from reference_impls.psoft import PSOFT

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("shape", [(9, 12), (12, 9)])
def test_the_principal_part_turns_and_the_rest_stays(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    weight = torch.randn(shape, dtype=torch.float64)
    psoft = PSOFT(weight, r=4, mag_a=False, mag_b=False, terms=None).double()
    torch.nn.init.normal_(psoft.Q)
    principal = psoft.B @ psoft.A
    turned = principal + psoft.delta()
    assert not torch.allclose(turned, principal, atol=0.1)
    assert torch.allclose(torch.linalg.svdvals(turned), torch.linalg.svdvals(principal))
    rest = weight - principal
    assert torch.allclose(psoft.A @ rest.T, torch.zeros(4, shape[0], dtype=torch.float64), atol=1e-9)
    assert torch.allclose(weight + psoft.delta() - turned, rest)


def test_the_vectors_relax_it() -> None:
    weight = torch.randn(9, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    psoft = PSOFT(weight, r=4, mag_a=True, mag_b=True, terms=None).double()
    with torch.no_grad():
        psoft.a.fill_(2.0)
        psoft.b.fill_(3.0)
    assert torch.allclose(psoft.delta(), 5 * psoft.B @ psoft.A)
