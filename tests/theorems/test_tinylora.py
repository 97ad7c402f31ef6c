"""TinyLoRA: the change stays inside the weight's leading singular directions, and groups share one vector."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance import checks, tiny
from peftonomy.conformance.trial import Trial
from reference_impls import _kit as kit
from reference_impls import tinylora

pytestmark = pytest.mark.torch


def test_the_change_stays_inside_the_leading_singular_directions() -> None:
    torch.manual_seed(0)
    weight = torch.randn(9, 7, dtype=torch.float64)
    child = tinylora.TinyLoRA(weight, tinylora.Shared(1, 5).double(), 0, r=3, u=5).double()
    torch.nn.init.normal_(child.shared.v[0])
    left, _, right = torch.linalg.svd(weight)
    inside = left.T @ child.delta() @ right.T
    assert inside[:3, :3].abs().min() > 1e-6
    inside[:3, :3] = 0
    assert inside.abs().max() < 1e-12
    best = left[:, :3] @ torch.diag(torch.linalg.svdvals(weight)[:3]) @ right[:3]
    assert torch.allclose(child.B @ child.A, best)


@pytest.mark.parametrize(("tying", "groups"), [(0.0, 4), (0.5, 2), (0.6, 2), (0.9, 1), (1.0, 1)])
def test_groups_share_one_vector(tying: float, groups: int) -> None:
    model = tinylora.apply(tiny.model("bert"), u=3, weight_tying=tying)
    children = [child for _, child in kit.at_sites(model, "tinylora", tinylora.TinyLoRA)]
    assert {child.group for child in children} == set(range(groups))
    assert len(children[0].shared.v) == groups


@pytest.mark.parametrize("check", checks.CHECKS, ids=lambda check: check.__name__)
def test_tied(check: checks.Check) -> None:
    check(Trial("tinylora", "t5", {"r": 2, "u": 3, "weight_tying": 0.7}))
