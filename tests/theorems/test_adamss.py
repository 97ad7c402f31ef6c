"""AdaMSS: a cluster's outputs change within its own rank, and bias and weight change as the outputs do."""

from __future__ import annotations

import pytest
import torch

from reference_impls.adamss import AdaMSS, clusters

pytestmark = pytest.mark.torch


def test_rank_within_and_across_clusters() -> None:
    torch.manual_seed(0)
    weight, bias = torch.randn(30, 20, dtype=torch.float64), torch.randn(30, dtype=torch.float64)
    child = AdaMSS(weight, bias, r=12, num_subspaces=3, subspace_rank=2).double()
    assert torch.allclose(child.A @ child.A.mT, torch.eye(2, dtype=torch.float64).expand(3, 2, 2))
    torch.nn.init.normal_(child.B)
    delta = child.delta()
    assert torch.linalg.matrix_rank(delta) == 6
    assert [int(torch.linalg.matrix_rank(delta[child.cluster == k])) for k in range(3)] == [2, 2, 2]
    x, y = torch.randn(5, 20, dtype=torch.float64), torch.zeros(5, 30, dtype=torch.float64)
    assert torch.allclose(child.after(x, y), x @ delta[:, :20].T + delta[:, 20])


def test_clusters_of_separate_groups() -> None:
    torch.manual_seed(0)
    rows = torch.cat([torch.randn(5, 4) + 20 * i for i in range(3)])
    found = clusters(rows, 3).view(3, 5)
    assert all(len(set(group.tolist())) == 1 for group in found)
