"""O-LoRA: tasks that share no direction do not change each other's outputs."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import lora, o_lora

pytestmark = pytest.mark.torch

TARGETS = ("attn.q",)


def test_the_next_task_starts_from_the_model_that_the_last_one_left() -> None:
    model = o_lora.apply(tiny.model("llama"), r=2, dropout=0.0, targets=TARGETS)
    shake(model)
    before = tiny.loss(model, "llama")
    o_lora.next_task(model)
    assert torch.allclose(tiny.loss(model, "llama"), before)
    o_lora.next_task(model)
    [child, *_] = o_lora.corrections(model)
    assert child.past == 2
    assert child.A_p.shape == (4, child.A.shape[1])
    assert not bool(child.A_p.requires_grad)
    assert [name for name, value in child.named_parameters() if value.requires_grad] == ["A", "B"]


def test_orthogonal_tasks_leave_each_other_alone() -> None:
    child = o_lora.OLoRA(6, 5, r=2, alpha=2.0, past=1, dropout=0.0)
    basis = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(0))).Q
    child.A_p.copy_(basis[:2])
    child.B_p.normal_()
    child.A.data.copy_(basis[2:4])
    x, y = torch.randn(3, 2) @ basis[:2], torch.zeros(3, 5)         # inputs of the earlier task
    before = child.after(x, y)
    child.B.data.normal_()
    assert torch.allclose(child.after(x, y), before, atol=1e-5)
    child.A.data.copy_(basis[1:3])
    assert not torch.allclose(child.after(x, y), before, atol=1e-2), "one shared direction is enough"


def test_the_penalty_is_zero_exactly_when_the_tasks_are_orthogonal() -> None:
    model = o_lora.apply(tiny.model("bert"), r=1, past=2, dropout=0.0, targets=TARGETS)
    for child in o_lora.corrections(model):
        child.A_p[0, 0] = child.A_p[1, 1] = 1.0
        child.A.data[0] = torch.eye(child.A.shape[1])[2]
    assert float(o_lora.penalty(model).detach()) == 0
    for child in o_lora.corrections(model):
        child.A.data[0, :2] = torch.tensor([0.5, -0.25])
    assert float(o_lora.penalty(model).detach()) == pytest.approx(0.75 * len(o_lora.corrections(model)))


def test_the_first_task_is_a_plain_lora() -> None:
    model = o_lora.apply(tiny.model("llama"), r=2, alpha=4.0, dropout=0.0, targets=TARGETS)
    shake(model)
    plain = lora.apply(tiny.model("llama"), r=2, alpha=4.0, targets=TARGETS)
    pairs = zip(o_lora.corrections(model), kit.at_sites(plain, "lora", lora.LoRA), strict=True)
    for child, (_, other) in pairs:
        other.A.data, other.B.data = child.A.data, child.B.data
    assert torch.allclose(tiny.loss(model, "llama"), tiny.loss(plain, "llama"))
    assert float(o_lora.penalty(model).detach()) == 0
