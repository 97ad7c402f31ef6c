"""GOFT: any angles give a rotation, at any width, and turn one axis to every direction."""

from __future__ import annotations

import pytest
import torch

from reference_impls import goft

pytestmark = pytest.mark.torch


def matrix(child: goft.Givens, d_in: int) -> torch.Tensor:
    """The matrix T with rotate(x) = x T."""
    return child.rotate(torch.eye(d_in).double())


@pytest.mark.parametrize("d_in", [2, 8, 11, 12])
def test_rotations_of_pairs_form_one_rotation_of_all(d_in: int) -> None:
    torch.manual_seed(0)
    child = goft.Givens(d_in, strict=True, scaling=False).double()
    assert child.theta.shape == (d_in - 1,)
    child.theta.data = torch.randn(d_in - 1).double()
    found = matrix(child, d_in)
    assert torch.allclose(found @ found.T, torch.eye(d_in).double())
    assert torch.linalg.det(found) > 0
    assert (found[0] != 0).all(), "the first component reaches all outputs"


def test_angles_reach_every_direction_of_an_input() -> None:
    """One rotation fewer than components is enough to turn the first axis anywhere."""
    torch.manual_seed(0)
    child = goft.Givens(8, strict=True, scaling=False).double()
    child.theta.data = 0.1 * torch.randn(7).double()
    moved = matrix(child, 8)[0]
    gradients = [torch.autograd.grad(entry, child.theta, retain_graph=True)[0] for entry in moved]
    assert torch.linalg.matrix_rank(torch.stack(gradients)) == 7


def test_free_entries_contain_every_strict_tree() -> None:
    torch.manual_seed(0)
    strict, free = (goft.Givens(11, strict=kind, scaling=False).double() for kind in (True, False))
    strict.theta.data = torch.randn(10).double()
    angles = torch.pi * torch.tanh(strict.theta.data)
    cos, sin = angles.cos(), angles.sin()
    free.G.data = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
    assert torch.allclose(matrix(free, 11), matrix(strict, 11))
    free.G.data = torch.randn(10, 2, 2).double()
    found = matrix(free, 11)
    assert not torch.allclose(found @ found.T, torch.eye(11).double()), "free entries also scale and shear"
