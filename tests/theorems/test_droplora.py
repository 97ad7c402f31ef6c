"""DropLoRA: a step trains a random subset of the ranks, and in expectation each rank's contribution is penalised."""

from __future__ import annotations

import itertools

import pytest
import torch

from reference_impls import droplora

pytestmark = pytest.mark.torch
KEEP = 0.6


def _child() -> droplora.DropLoRA:
    torch.manual_seed(0)
    child = droplora.DropLoRA(5, 7, r=4, alpha=6.0, dropout=0.0, inner_dropout=1 - KEEP).double()
    child.B.data.normal_()
    return child


def test_the_expected_error_is_loras_and_a_penalty_on_each_rank() -> None:
    child = _child()
    x, y, wanted = (torch.randn(1, n, dtype=torch.float64) for n in (5, 7, 7))
    expected = torch.zeros(())
    for kept in itertools.product((0.0, 1.0), repeat=4):
        child.inner = droplora.Recorded(torch.tensor(kept, dtype=torch.float64) / KEEP)
        share = KEEP ** sum(kept) * (1 - KEEP) ** (4 - sum(kept))
        expected = expected + share * (child.after(x, y) - wanted).square().sum()
    child.eval()
    own = child.scale * child.B * (x @ child.A.T)           # (7, 4): the contribution of each rank
    penalty = (1 - KEEP) / KEEP * own.square().sum()
    assert penalty > 0.1
    assert torch.allclose(expected, (child.after(x, y) - wanted).square().sum() + penalty)


def test_a_dropped_rank_is_left_out_at_its_position_only() -> None:
    child = _child()
    x = torch.randn(1, 64, 5, dtype=torch.float64)
    seen: list[torch.Tensor] = []
    child.inner.register_forward_hook(lambda module, given, result: seen.append(result / given[0]))
    change = child.after(x, torch.zeros(1, 64, 7, dtype=torch.float64))
    [mask] = seen
    assert torch.allclose(mask[mask != 0], torch.tensor(1 / KEEP, dtype=torch.float64))
    assert 0.4 < (mask != 0).double().mean() < 0.8
    assert len({tuple(row) for row in mask[0].tolist()}) > 8, "positions have masks of their own"
    for position in range(64):
        delta = child.scale * (child.B * mask[0, position]) @ child.A
        assert torch.allclose(change[0, position], delta @ x[0, position])
        assert torch.linalg.matrix_rank(delta) == (mask[0, position] > 0).sum()


def test_evaluation_uses_all_ranks() -> None:
    child = _child().eval()
    x = torch.randn(3, 5, dtype=torch.float64)
    assert torch.allclose(child.after(x, torch.zeros(3, 7, dtype=torch.float64)), x @ child.delta().T)
    assert torch.linalg.matrix_rank(child.delta()) == 4
