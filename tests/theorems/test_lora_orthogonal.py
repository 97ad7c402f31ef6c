"""Orthogonal start: the product is zero, both factors learn at once, and a step raises a factor to its full rank."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import lora, lora_orthogonal

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_halves_that_cancel_and_learn(family: str) -> None:
    model = lora_orthogonal.apply(tiny.model(family), r=4, targets=("attn.q", "mlp.down"))
    model(**tiny.batch(family)).logits.square().sum().backward()
    for _, child in kit.at_sites(model, "lora_orthogonal", lora.LoRA):
        assert child.delta().abs().max() < 1e-6 * child.A.abs().max() * child.B.abs().max()
        for factor in (child.A, child.B):
            assert factor.grad is not None
            assert torch.linalg.matrix_rank(factor, rtol=1e-5) == 2
            assert factor.grad.any()
            assert torch.linalg.matrix_rank(factor - factor.grad / factor.grad.norm(), rtol=1e-5) == 4


def test_an_odd_rank_is_refused() -> None:
    with pytest.raises(ValueError, match="even, not 3"):
        lora_orthogonal.apply(tiny.model("gpt2"), r=3)
