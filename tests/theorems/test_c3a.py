"""C3A: full rank at the price of one row, and blocks that are circulant."""

from __future__ import annotations

import pytest
import torch

from reference_impls import c3a

pytestmark = pytest.mark.torch


def test_full_rank_at_the_price_of_one_row() -> None:
    torch.manual_seed(0)
    child = c3a.C3A(24, 24, block_size=24)
    assert child.kernel.numel() == 24
    assert torch.linalg.matrix_rank(child.delta()) == 24


def test_blocks_are_circulant() -> None:
    torch.manual_seed(0)
    child = c3a.C3A(12, 8, block_size=4)
    for i, row in enumerate(child.kernel.detach()):
        for j, w in enumerate(row):
            block = child.delta().detach()[4 * i : 4 * i + 4, 4 * j : 4 * j + 4]
            assert torch.allclose(block, torch.stack([w.roll(k) for k in range(4)]) / 12)


def test_the_transform_is_the_matrix() -> None:
    torch.manual_seed(0)
    for b in (1, 2, 3, 6):
        child = c3a.C3A(18, 12, block_size=b)
        x = torch.randn(2, 5, 18)
        assert torch.allclose(child.after(x, torch.zeros(())), x @ child.delta().T, atol=1e-6)
