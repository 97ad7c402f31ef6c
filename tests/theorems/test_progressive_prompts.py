"""Progressive Prompts: they act as one prompt. Only its newest part is trained, and its end serves older tasks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from peftonomy import UsageError
from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import progressive_prompts as progressive
from reference_impls import prompt_tuning

pytestmark = pytest.mark.torch


def _child(model: nn.Module) -> progressive.Prompts:
    [child] = kit.attached(model, "progressive_prompts")
    assert isinstance(child, progressive.Prompts)
    return child


def _prompted(vectors: Tensor) -> Tensor:
    plain = prompt_tuning.apply(tiny.model("bert"), prompt_length=len(vectors))
    plain.get_parameter("prompt_tuning.P").data.copy_(vectors)
    return tiny.outputs(plain.eval(), "bert")


def test_older_prompts_act_and_stay() -> None:
    model = progressive.apply(tiny.model("bert"), prompt_length=2, tasks=3)
    child = _child(model)
    first, second = (torch.randn(2, child.P.shape[1], dtype=torch.float64) for _ in range(2))
    progressive.load(model, [first, second])
    outputs = tiny.outputs(model.eval(), "bert")
    assert torch.allclose(outputs, _prompted(torch.cat([child.P.detach(), second, first])))
    outputs.square().sum().backward()
    assert child.P.grad is not None
    assert child.P.grad.any()
    assert child.get_parameter("old_P").grad is None

    before = progressive.apply(tiny.model("bert"), prompt_length=2, tasks=2)
    progressive.load(before, [first])
    _child(before).P.data.copy_(second)
    assert torch.equal(_child(before).vectors(), child.vectors()[2:]), "the last task is served with the end"
    assert torch.allclose(tiny.outputs(before.eval(), "bert"), _prompted(torch.cat([second, first])))


@pytest.mark.parametrize("tasks", [1, 2])
def test_the_network_leaves_a_prompt(tasks: int) -> None:
    model = progressive.apply(tiny.model("bert"), prompt_length=3, tasks=tasks, network=True, bottleneck=5)
    child = _child(model)
    table = tiny.plain("bert").get_input_embeddings().weight                     # type: ignore[operator, union-attr]
    assert all(any(torch.equal(row, token) for token in table) for row in child.E)
    assert torch.equal(child.P, child.E)
    shake(model)
    wanted, vectors = tiny.outputs(model.eval(), "bert"), child.vectors().detach()
    assert not torch.allclose(child.E, vectors[:3])
    progressive.finish(model)
    assert {name for name, _ in child.named_parameters()} == {"P", "old_P"} - ({"old_P"} if tasks == 1 else set())
    assert torch.equal(child.vectors(), vectors)
    assert torch.allclose(tiny.outputs(model, "bert"), wanted)


def test_a_model_without_a_vocabulary_is_refused() -> None:
    with pytest.raises(UsageError, match="a model with a vocabulary was expected"):
        progressive.apply(tiny.model("vit"))
