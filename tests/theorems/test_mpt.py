"""MPT: prompts of several tasks can be distilled into one and a pair of vectors each."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import mpt, spot

pytestmark = pytest.mark.torch
LENGTH = 3


def child(model: nn.Module) -> mpt.MultitaskPrompt:
    return cast(mpt.MultitaskPrompt, kit.attached(model, "mpt")[0])


def heard(model: Any) -> tuple[Tensor, Tensor]:
    """What the model predicts, and the states from which it does."""
    found = model(**tiny.batch("llama"), output_hidden_states=True)
    return found.logits, found.hidden_states[-1]


def teacher(prompt: Tensor) -> tuple[Tensor, Tensor]:
    model = spot.start(spot.apply(tiny.model("llama"), prompt_length=LENGTH), prompt)
    with torch.no_grad():
        return heard(model)


def distilled(prompts: list[Tensor], steps: int) -> list[float]:
    """Losses while one shared prompt, with a pair of vectors for each task, learns from the tasks' own prompts."""
    students = [mpt.apply(tiny.model("llama"), prompt_length=LENGTH) for _ in prompts]
    child(students[0]).P.data.copy_(torch.stack(prompts).mean(dim=0))
    for student in students:
        nn.init.ones_(child(student).u)
        nn.init.ones_(child(student).v)
    for student in students[1:]:
        child(student).P = child(students[0]).P
    moving = {id(p): p for s in students for p in s.parameters() if p.requires_grad}
    assert len(moving) == 1 + 2 * len(prompts)
    optimiser = torch.optim.Adam(moving.values(), lr=0.05)
    lessons, losses = [teacher(p) for p in prompts], []
    for _ in range(steps):
        optimiser.zero_grad()
        pairs = zip(map(heard, students), lessons, strict=True)
        loss = torch.stack([mpt.distillation(a, b, s, t) for (a, s), (b, t) in pairs]).mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


def test_prompts_with_a_common_core_are_distilled_and_others_are_not() -> None:
    generator = torch.Generator().manual_seed(1)
    shared, *apart = torch.randn(3, LENGTH, 18, generator=generator, dtype=torch.float64)
    scales = 0.5 + torch.rand(2, LENGTH + 18, generator=generator, dtype=torch.float64)
    alike = [shared * torch.outer(scale[:LENGTH], scale[LENGTH:]) for scale in scales]
    easy, hard = distilled(alike, 40), distilled(apart, 40)
    assert easy[-1] < 0.05 * easy[0]
    assert hard[-1] > 5 * easy[-1]


def test_distillation_is_zero_only_where_student_and_teacher_agree() -> None:
    logits, state = torch.randn(2, 3, 5), torch.randn(2, 3, 4)
    assert mpt.distillation(logits + 1, logits, state, state).abs() < 1e-6  # the same probabilities
    assert mpt.distillation(2 * logits, logits, state, state) > 1e-2
    assert mpt.distillation(logits, logits, state + 0.1, state).isclose(torch.tensor(0.01), atol=1e-6)


def test_the_product_is_all_that_the_model_sees() -> None:
    model = mpt.apply(tiny.model("gpt2"), prompt_length=2, rank=2)
    nn.init.normal_(child(model).u)
    nn.init.normal_(child(model).v)
    wanted = tiny.outputs(spot.start(spot.apply(tiny.model("gpt2"), prompt_length=2), child(model).vectors()), "gpt2")
    assert torch.allclose(tiny.outputs(model, "gpt2"), wanted, atol=tiny.TOLERANCE)
    assert torch.linalg.matrix_rank(child(model).u @ child(model).v) == 2
