"""Residual prompt tuning: it stores a plain prompt, and one shared network moves equal vectors alike."""

from __future__ import annotations

import pytest
import torch

from peftonomy import UsageError
from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import prompt_tuning
from reference_impls import residual_prompt_tuning as residual

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("separate", [False, True])
def test_what_is_left_is_a_prompt(separate: bool) -> None:
    model = residual.apply(tiny.model("bert"), prompt_length=4, bottleneck=5, separate=separate)
    [child] = kit.attached(model, "residual_prompt_tuning")
    assert isinstance(child, residual.ResidualPrompt)
    table = tiny.plain("bert").get_input_embeddings().weight                     # type: ignore[operator, union-attr]
    assert all(any(torch.equal(row, token) for token in table) for row in child.E)
    shake(model)
    with torch.no_grad():
        child.E[1] = child.E[0]
        added = child.vectors() - child.E
        assert torch.allclose(added[0], added[1]) == (not separate)
        one, alone = child.vectors()[2].clone(), child.E[3].clone()
        child.E[3] += 1.0
        assert torch.equal(child.vectors()[2], one), "no vector depends on another"
        child.E[3] = alone
        wanted = tiny.outputs(model.eval(), "bert")
        residual.finish(model)
        assert [name for name, _ in child.named_parameters()] == ["P"]
        plain = prompt_tuning.apply(tiny.model("bert"), prompt_length=4)
        plain.get_parameter("prompt_tuning.P").data.copy_(child.P)
        for tuned in (model, plain):
            assert torch.allclose(tiny.outputs(tuned.eval(), "bert"), wanted)


def test_a_model_without_a_vocabulary_is_refused() -> None:
    with pytest.raises(UsageError, match="a model with a vocabulary was expected"):
        residual.apply(tiny.model("vit"))
