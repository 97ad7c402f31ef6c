"""WaveFT: the transform is orthogonal, and a coefficient moves a block of two by two entries."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import waveft

pytestmark = pytest.mark.torch


def test_the_transform_is_orthogonal() -> None:
    images = torch.stack([waveft.haar(e.view(6, 8)).flatten() for e in torch.eye(48, dtype=torch.float64)])
    assert torch.allclose(images @ images.T, torch.eye(48, dtype=torch.float64))


def test_a_coefficient_moves_a_block_of_two_by_two() -> None:
    c = torch.zeros(6, 8)
    c[1, 2] = 1.0
    assert waveft.haar(c).nonzero().tolist() == [[2, 4], [2, 5], [3, 4], [3, 5]]


def test_odd_sides_are_rounded_up_and_cut() -> None:
    [site, *_] = kit.sites(tiny.model("t5"), ("attn.q",))
    spectrum = torch.randn(6)
    child = waveft.WaveFT(site, waveft.fourierft.Positions(torch.arange(6)), spectrum, 1.0)
    child.shape = (5, 3)
    padded = torch.zeros(6, 4)
    padded[:2, :3] = spectrum.view(2, 3)
    assert torch.equal(child.delta(), waveft.haar(padded)[:5, :3])
