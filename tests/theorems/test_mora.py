"""MoRA: with LoRA's parameters its change has a higher rank; rotation keeps apart the parts that sharing adds."""

from __future__ import annotations

import pytest
import torch

from reference_impls.mora import MoRA, side

pytestmark = pytest.mark.torch


def random(d_in: int, d_out: int, r: int, form: str) -> MoRA:
    torch.manual_seed(0)
    child = MoRA(d_in, d_out, r=r, form=form, dropout=0.0).double()
    child.M.data.normal_()
    return child


@pytest.mark.parametrize("form", ["sharing", "rotation"])
@pytest.mark.parametrize(("d_in", "d_out"), [(24, 24), (24, 60), (60, 24), (25, 31)])
def test_the_rank_is_at_least_the_side(form: str, d_in: int, d_out: int) -> None:
    child = random(d_in, d_out, 2, form)
    size = side(d_in, d_out, 2, form)
    assert abs(child.M.numel() - 2 * (d_in + d_out)) <= 2 * size + 1, "rounding"
    rank = int(torch.linalg.matrix_rank(child.delta()))
    assert rank == size if form == "sharing" else rank >= size
    assert rank > 2


@pytest.mark.parametrize("form", ["sharing", "rotation"])
def test_only_rotation_tells_parts_apart(form: str) -> None:
    child = random(36, 36, 2, form)
    size = len(child.M)                         # a third of the width
    x = torch.randn(36, dtype=torch.float64)
    moved = torch.cat([x[size : 2 * size], x[:size], x[2 * size :]])
    assert torch.allclose(child.correction(x), child.correction(moved)) == (form == "sharing")
