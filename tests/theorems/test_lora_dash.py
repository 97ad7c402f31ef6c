"""LoRA-Dash: the directions are those whose relative change is largest, and only their coordinates are added."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import lora_dash

pytestmark = pytest.mark.torch


def _dashed() -> tuple[torch.Tensor, lora_dash.Dash]:
    torch.manual_seed(0)
    child = lora_dash.Dash(6, 7, r=2, alpha=4.0, dropout=0.0, directions=3).double()
    weight = torch.randn(7, 6, dtype=torch.float64)
    child.B.data.normal_()
    child.choose(weight)
    return weight, child


def test_it_chooses_the_largest_relative_changes() -> None:
    weight, child = _dashed()
    u, sigma, v = torch.linalg.svd(weight, full_matrices=False)
    rates = torch.stack([(u[:, i] @ (2 * child.B @ child.A) @ v[i]).abs() / sigma[i] for i in range(6)])
    best = rates.topk(3).indices
    assert not set(best.tolist()) <= {0, 1, 2}, "the strongest directions would do"
    assert torch.allclose(child.U.abs(), u[:, best].abs())
    assert torch.allclose(child.V.abs(), v[best].abs())


def test_the_coordinates_change_the_chosen_directions_alone() -> None:
    weight, child = _dashed()
    change = child.delta()
    child.s.data = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    dash = child.delta() - change
    assert torch.allclose(child.U.T @ dash @ child.V.T, torch.diag(child.s))
    assert torch.allclose(torch.linalg.norm(dash), torch.linalg.norm(child.s)), "nothing in other directions"
    assert torch.allclose(child.U.T @ weight @ child.V.T, torch.diag(torch.diag(child.U.T @ weight @ child.V.T)))


def test_the_launch_follows_training_and_resets_the_coordinates() -> None:
    model = lora_dash.apply(tiny.model("llama"), r=2, directions=2, targets=("attn.q",))
    found = list(kit.at_sites(model, "lora_dash", lora_dash.Dash))
    for site, child in found:
        u, _, v = torch.linalg.svd(site.weight.detach(), full_matrices=False)
        assert torch.allclose(child.U.abs(), u[:, :2].abs(), atol=1e-5), "the strongest at the start"
        child.s.data.fill_(1.0)
        child.B.data = u[:, -2:] / child.scale
        child.A.data = v[-2:]
    lora_dash.launch(model)
    for site, child in found:
        u, _, _ = torch.linalg.svd(site.weight.detach(), full_matrices=False)
        assert torch.allclose(child.U.abs().sum(1), u[:, -2:].abs().sum(1), atol=1e-5)
        assert not child.s.any()
    with pytest.raises(ValueError, match="does not have 99 directions"):
        lora_dash.apply(tiny.model("llama"), directions=99)
