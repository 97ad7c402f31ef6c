"""Cross-attention tuning: without embeddings, training changes the translator and leaves the encoder as it was."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from peftonomy.conformance import tiny
from reference_impls import xattn_tuning

pytestmark = pytest.mark.torch


def states(model: nn.Module) -> tuple[Tensor, Tensor]:
    """The states of the encoder, and the model's output, without gradients."""
    with torch.no_grad():
        found = model.eval()(**tiny.batch("t5"))
    return found.encoder_last_hidden_state, found.logits


@pytest.mark.parametrize("embeddings", [False, True])
def test_the_encoder_moves_only_with_the_embeddings(embeddings: bool) -> None:
    model = xattn_tuning.apply(tiny.model("t5"), embeddings=embeddings)
    before = states(model)
    optimiser = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=0.1)
    tiny.loss(model, "t5").backward()
    optimiser.step()
    after = states(model)
    assert not torch.allclose(before[1], after[1])
    assert torch.equal(before[0], after[0]) != embeddings


def test_without_an_encoder_there_is_nothing_to_connect() -> None:
    assert not any(p.requires_grad for p in xattn_tuning.apply(tiny.model("gpt2")).parameters())
