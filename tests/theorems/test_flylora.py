"""FlyLoRA: each position uses the k columns of B with the largest projections, and the bias evens out their use."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import flylora

pytestmark = pytest.mark.torch


def _child(r: int = 6, k: int = 2) -> flylora.FlyLoRA:
    torch.manual_seed(0)
    child = flylora.FlyLoRA(9, 7, r=r, k=k, alpha=12.0, dropout=0.0).double()
    child.B.data.normal_()
    return child


def test_rows_of_the_projection_have_their_share_of_entries() -> None:
    for r, k, entries in ((6, 2, 3), (4, 4, 9), (16, 1, 1)):
        assert (flylora.FlyLoRA(9, 7, r=r, k=k, alpha=1.0, dropout=0.0).A != 0).sum(1).tolist() == [entries] * r


def test_each_position_is_a_sum_of_its_k_largest_ranks() -> None:
    child = _child()
    child.d.copy_(torch.linspace(-0.1, 0.1, 6))
    x = torch.randn(2, 8, 9, dtype=torch.float64)
    change = child.after(x, torch.zeros(2, 8, 7, dtype=torch.float64))
    used = set()
    for position, found in zip(x.flatten(0, 1), change.flatten(0, 1), strict=True):
        low = child.A @ position
        best = sorted(range(6), key=lambda i: -abs(low[i] + child.d[i]))[:2]
        used.add(tuple(sorted(best)))
        assert torch.allclose(found, sum(2.0 * low[i] * child.B[:, i] for i in best))       # type: ignore[arg-type]
    assert len(used) > 3, "positions choose differently"
    assert (child.A @ x.flatten(0, 1).T).min() < 0, "some of the chosen ones are negative"


def test_only_chosen_columns_learn_and_the_input_keeps_its_gradient() -> None:
    child = _child()
    x = torch.randn(1, 1, 9, dtype=torch.float64, requires_grad=True)
    child.after(x, torch.zeros(1, 1, 7, dtype=torch.float64)).sum().backward()     # type: ignore[no-untyped-call]
    assert child.B.grad is not None
    assert x.grad is not None
    assert (child.B.grad.abs().sum(0) > 0).sum() == 2
    assert x.grad.abs().sum() > 0
    assert not child.A.requires_grad


def test_the_bias_evens_out_the_use_of_the_ranks() -> None:
    model = flylora.apply(tiny.model("llama"), r=8, k=2, targets=("attn.q",)).train()
    child = next(c for _, c in kit.at_sites(model, "flylora", flylora.FlyLoRA))
    child.A[0] *= 40.0
    x = torch.randn(400, child.A.shape[1]).to(child.A) + 1.0

    def spread() -> float:
        child.chosen.zero_()
        child.after(x, torch.zeros(400, child.B.shape[0]).to(child.A))
        return float(child.chosen.std())

    before = spread()
    counts, d = child.chosen.clone(), child.d.clone()
    flylora.balance(model, u=0.5)
    assert torch.equal(child.d - d, 0.5 * (counts.mean() - counts).sign())
    assert not child.chosen.any()
    child.d.zero_()
    for _ in range(60):
        spread()
        flylora.balance(model, u=0.02)
    assert spread() < before
