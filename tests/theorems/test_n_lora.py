"""N-LoRA: changes that share no entry are orthogonal, and the term of the loss makes changes sparse."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance import tiny
from reference_impls import n_lora, o_lora

pytestmark = pytest.mark.torch


def test_changes_that_share_no_entry_are_orthogonal_but_not_the_reverse() -> None:
    torch.manual_seed(0)
    child = o_lora.OLoRA(6, 5, r=2, alpha=2.0, past=1, dropout=0.0).double()
    child.A_p.copy_(torch.randn(2, 6))
    child.B_p.copy_(torch.randn(5, 2))
    child.A.data, child.B.data = torch.randn(2, 6).double(), torch.randn(5, 2).double()
    child.B_p[3:], child.B.data[:3] = 0.0, 0.0
    earlier, change = child.B_p @ child.A_p, child.B @ child.A
    assert not (earlier * change).any()
    assert earlier.any()
    assert change.any()
    assert torch.equal((earlier.T @ change), torch.zeros(6, 6).double()), "rows apart"
    assert (child.A_p @ child.A.T).abs().sum() > 0.1, "O-LoRA's own condition does not hold"


def test_the_penalty_sums_the_entries_of_the_changes_on_weights_of_any_shape() -> None:
    model = n_lora.apply(tiny.model("llama"), r=2, targets=("attn.q", "mlp.down"))
    children = n_lora.corrections(model)
    assert any(child.A.shape[1] != child.B.shape[0] for child in children)
    for child in children:
        child.B.data.normal_()
    wanted = sum((child.delta() / child.scale).abs().sum().item() for child in children)
    assert n_lora.penalty(model).item() == pytest.approx(wanted)


def test_it_makes_the_change_sparse_where_orthogonality_does_not() -> None:
    """Fit a sparse target with and without the term: with it, more entries are near zero."""
    torch.manual_seed(0)
    wanted = torch.zeros(8, 8).double()
    wanted[0, 1] = wanted[2, 5] = 1.0

    def near_zero(weight: float) -> float:
        torch.manual_seed(1)
        child = o_lora.OLoRA(8, 8, r=4, alpha=4.0, past=0, dropout=0.0).double()
        noise = 0.05 * torch.randn(8, 8).double()
        optimizer = torch.optim.Adam([child.A, child.B], lr=0.01)
        for _ in range(600):
            optimizer.zero_grad()
            loss = (child.delta() - wanted - noise).square().sum() + weight * (child.B @ child.A).abs().sum()
            loss.backward()     # type: ignore[no-untyped-call]
            optimizer.step()
        return float((child.delta().abs() < 0.01).double().mean())

    assert near_zero(0.1) > near_zero(0.0) + 0.2


def test_the_next_task_starts_from_the_model_that_the_last_one_left() -> None:
    model = n_lora.apply(tiny.model("llama"), r=2, dropout=0.0, targets=("attn.q",))
    for child in n_lora.corrections(model):
        child.B.data.normal_()
    before = tiny.loss(model, "llama")
    n_lora.next_task(model)
    assert torch.allclose(tiny.loss(model, "llama"), before)
    assert not any(child.B.any() for child in n_lora.corrections(model))
    assert n_lora.penalty(model).item() == 0
