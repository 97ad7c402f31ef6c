"""BD-LoRA: n devices, each with its slice of the weight and its block, need no exchange but the model's own."""

from __future__ import annotations

import pytest
import torch

from reference_impls.bd_lora import BDLoRA

pytestmark = pytest.mark.torch


def correction(*, by_inputs: bool) -> BDLoRA:
    torch.manual_seed(0)
    child = BDLoRA(6, 4, r=4, alpha=4.0, dropout=0.0, nblocks=2, by_inputs=by_inputs).double()
    for factor in child.factors():
        torch.nn.init.normal_(factor)
    return child


def test_split_by_outputs_each_device_makes_its_own_outputs() -> None:
    child, x = correction(by_inputs=False), torch.randn(5, 6).double()
    a, b = child.factors()
    whole = child.after(x, torch.zeros(5, 4).double())
    for device in (0, 1):
        ranks, outputs = slice(2 * device, 2 * device + 2), slice(2 * device, 2 * device + 2)
        assert torch.allclose(x @ a[ranks].T @ b[outputs].T, whole[:, outputs])


def test_split_by_inputs_the_devices_results_add_up() -> None:
    child, x = correction(by_inputs=True), torch.randn(5, 6).double()
    a, b = child.factors()
    parts = [x[:, 3 * i : 3 * i + 3] @ a[2 * i : 2 * i + 2].T @ b[:, 2 * i : 2 * i + 2].T for i in (0, 1)]
    assert torch.allclose(parts[0] + parts[1], child.after(x, torch.zeros(5, 4).double()))
