"""KRAdapter: the change has full rank, and each of its rows is a Kronecker product of its own."""

from __future__ import annotations

import pytest
import torch

from reference_impls.kradapter import KhatriRao

pytestmark = pytest.mark.torch


@pytest.mark.parametrize(("d_in", "d_out"), [(16, 16), (10, 23), (23, 10), (9, 9)])
def test_full_rank_from_rows_that_are_kronecker_products(d_in: int, d_out: int) -> None:
    torch.manual_seed(0)
    child = KhatriRao(d_in, d_out, scaling=0.5).double()
    child.U.data.normal_()
    change = child.delta()
    assert change.shape == (d_out, d_in)
    assert torch.linalg.matrix_rank(change) == min(d_in, d_out)
    assert sum(p.numel() for p in child.parameters()) < d_in * d_out
    rows = change.T if d_in < d_out else change
    for i, row in enumerate(rows):
        assert torch.allclose(row, 0.5 * torch.kron(child.V[i], child.U[i])[: max(d_in, d_out)])
