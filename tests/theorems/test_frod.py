"""FRoD: the pretrained weights in a common basis, exactly, and a change of full rank."""

from __future__ import annotations

import pytest
import torch

from reference_impls import frod

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("sizes", [(9, 9, 9), (4, 12), (3, 2)])      # the last: fewer rows than columns
def test_the_start_is_the_pretrained_weight(sizes: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    weights = [torch.randn(rows, 9, dtype=torch.float64) for rows in sizes]
    shared = frod.Shared(weights, sparse_rate=0.1, regularization_alpha=0.001)
    for weight in weights:
        child = frod.FRoD(weight, shared).double()
        assert torch.allclose(child.weight(), weight)
        assert torch.allclose(child.U.norm(dim=0)[child.lambda_l > 1e-9], torch.ones(()).double())


def test_positions_are_off_the_diagonal_and_all_of_them_at_most() -> None:
    shared = frod.Shared([torch.randn(7, 5)], sparse_rate=1.0, regularization_alpha=0.001)
    wanted = [i for i in range(25) if i % 6]
    assert shared.positions.sort().values.tolist() == wanted


def test_the_change_has_full_rank() -> None:
    torch.manual_seed(0)
    weights = [torch.randn(8, 8, dtype=torch.float64) for _ in range(2)]
    child = frod.FRoD(weights[0], frod.Shared(weights, sparse_rate=0.05, regularization_alpha=0.001)).double()
    torch.nn.init.normal_(child.lambda_l)
    assert torch.linalg.matrix_rank(child.weight() - weights[0]) == 8
