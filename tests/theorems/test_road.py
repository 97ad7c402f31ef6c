"""RoAd: one angle for a pair is a rotation; half of the angles of the largest variant have no gradient."""

from __future__ import annotations

import pytest
import torch

from reference_impls.road import RoAd

pytestmark = pytest.mark.torch


def test_the_smallest_variant_rotates_and_scales() -> None:
    torch.manual_seed(0)
    road = RoAd(12, variant="road_1", group_size=4).double()
    torch.nn.init.normal_(road.theta)
    torch.nn.init.constant_(road.alpha, 2.0)
    matrix = road.rotate(torch.eye(12, dtype=torch.float64))
    assert torch.allclose(matrix @ matrix.T, 4 * torch.eye(12, dtype=torch.float64))
    assert ((matrix.abs() > 1e-12).sum(1) == 2).all()


@pytest.mark.parametrize("variant", ["road_1", "road_2", "road_4"])
def test_angles_of_cosines_never_move(variant: str) -> None:
    torch.manual_seed(0)
    road = RoAd(12, variant=variant, group_size=4).double()
    x, y = torch.randn(2, 5, 12, dtype=torch.float64)
    optimiser = torch.optim.SGD(road.parameters(), lr=0.1)
    for _ in range(5):
        optimiser.zero_grad()
        ((road.rotate(x) - y) ** 2).sum().backward()
        optimiser.step()
    still = int((road.theta == 0).sum())
    assert still == (12 if variant == "road_4" else 0)
