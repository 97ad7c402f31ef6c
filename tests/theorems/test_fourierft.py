"""FourierFT: the change is a sum of plane waves, one for each trained number, each of rank two at most."""

from __future__ import annotations

import math

import pytest
import torch

from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import fourierft

pytestmark = pytest.mark.torch


def children(n: int, scaling: float) -> list[fourierft.FourierFT]:
    torch.manual_seed(0)
    model = fourierft.apply(tiny.model("t5"), n_frequency=n, scaling=scaling)
    return [child for _, child in kit.at_sites(model, "fourierft", fourierft.FourierFT)]


def test_the_change_is_a_sum_of_plane_waves() -> None:
    child = children(n=5, scaling=7.0)[0]
    rows, columns = child.shape
    i, j = torch.arange(rows).double()[:, None], torch.arange(columns).double()
    wanted = torch.zeros(rows, columns, dtype=torch.float64)
    for c, position in zip(child.spectrum.tolist(), child.shared.positions.tolist(), strict=True):
        k, m = divmod(position, columns)
        wanted += 7.0 * c / (rows * columns) * torch.cos(2 * math.pi * (k * i / rows + m * j / columns))
    assert torch.allclose(child.delta(), wanted)


def test_the_rank_is_up_to_twice_the_number_of_coefficients() -> None:
    assert 6 < torch.linalg.matrix_rank(children(n=6, scaling=1.0)[0].delta()) <= 12
    child = children(n=100, scaling=1.0)[0]
    assert torch.linalg.matrix_rank(child.delta()) == min(child.shape)


def test_weights_of_one_shape_share_their_positions() -> None:
    model = fourierft.apply(tiny.model("llama"), n_frequency=6, scaling=1.0)
    q, v = (model.get_buffer(f"fourierft.attn_{role}.positions") for role in "qv")
    assert not torch.equal(q, v)                        # other shapes
    model = fourierft.apply(tiny.model("bert"), n_frequency=6, scaling=1.0)
    q, v = (model.get_buffer(f"fourierft.attn_{role}.positions") for role in "qv")
    assert torch.equal(q, v)
