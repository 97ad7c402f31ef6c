"""HRA: r mirrors are an orthogonal map, of determinant one in pairs, that differs from the identity by rank r."""

from __future__ import annotations

import pytest
import torch

from reference_impls.hra import HRA

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("r", [2, 4, 6])
def test_orthogonal_and_of_rank_r_from_the_identity(r: int) -> None:
    torch.manual_seed(0)
    chain = HRA(11, r=r).double()
    torch.nn.init.normal_(chain.U)
    one = torch.eye(11, dtype=torch.float64)
    matrix = chain.rotate(one)
    assert torch.allclose(matrix @ matrix.T, one)
    assert torch.linalg.det(matrix).item() == pytest.approx(1)
    assert torch.linalg.matrix_rank(matrix - one, atol=1e-9) == r
