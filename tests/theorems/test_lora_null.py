"""LoRA-Null: with the first factor frozen, no training changes the outputs on data that leave room for the rank."""

from __future__ import annotations

import pytest
import torch

from reference_impls import lora_null

pytestmark = pytest.mark.torch


def started(freeze_a: bool) -> tuple[lora_null.Null, torch.Tensor, torch.Tensor]:
    """A child, its weight (7, 9) and data (50, 9) that span six dimensions."""
    torch.manual_seed(0)
    weight, data = torch.randn(7, 9).double(), torch.randn(50, 6).double() @ torch.randn(6, 9).double()
    child = lora_null.Null(9, 7, r=3, alpha=6.0, dropout=0.0, freeze_a=freeze_a).double()
    child.orient(weight, data.T @ data)
    return child, weight, data


def test_the_start_is_the_part_of_the_weight_that_the_data_never_reach() -> None:
    child, weight, data = started(freeze_a=False)
    start = child.scale * child.B_0 @ child.first
    assert torch.allclose((weight - start) @ data.T, weight @ data.T)
    other = torch.linalg.svd(data).Vh[6:]                           # a basis of the null space
    assert torch.allclose((weight - start) @ other.T, torch.zeros(7, 3).double(), atol=1e-10)
    assert child.delta().abs().max() < 1e-12


def test_a_frozen_first_factor_keeps_all_outputs_on_the_data() -> None:
    child, weight, data = started(freeze_a=True)
    y = data @ weight.T
    child.B.data = torch.randn(7, 3).double()
    assert child.delta().abs().max() > 0.1
    assert torch.allclose(child.after(data, y), y)
    trained, weight, data = started(freeze_a=False)
    trained.A.data = torch.randn(3, 9).double()
    assert not torch.allclose(trained.after(data, y), y), "a trained first factor can change them"


def test_inputs_that_are_all_zero_have_no_null_space() -> None:
    child, weight, _ = started(freeze_a=False)
    with pytest.raises(ValueError, match="null space cannot be computed"):
        child.orient(weight, torch.zeros(9, 9).double() / torch.zeros(()))
