"""CPT: no row leaves its ball, labels do not move, and the start is in-context learning."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance import tiny
from reference_impls import cpt

pytestmark = pytest.mark.torch
KINDS = [cpt.TEMPLATE, cpt.INPUT, cpt.LABEL, cpt.TEMPLATE]


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_starts_as_the_model_with_the_examples_in_its_context(family: str) -> None:
    examples, question = torch.tensor([5, 9, 30, 11]), torch.arange(20, 24)
    ours = cpt.context(cpt.apply(tiny.model(family), prompt_length=4, labels=1), examples, KINDS)
    with torch.no_grad():
        wanted = tiny.plain(family)(torch.cat([examples, question])[None]).logits[:, 4:]
        assert (ours(question[None]).logits - wanted).abs().max() < tiny.TOLERANCE


def test_rows_stay_in_their_balls_and_labels_where_they_are() -> None:
    torch.manual_seed(0)
    model = cpt.apply(tiny.model("llama"), prompt_length=4, labels=1, epsilon=0.5, format_epsilon=0.25)
    cpt.context(model, torch.tensor([5, 9, 30, 11]), KINDS)
    # weight decay too, which a masked gradient alone would not stop
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.3, weight_decay=0.1)
    for _ in range(4):
        optimiser.zero_grad()
        tiny.loss(model, "llama").backward()
        optimiser.step()
    moved = (model.cpt.vectors() - model.cpt.P).norm(dim=1) / (18 / 2048) ** 0.5
    assert torch.allclose(moved, torch.tensor([0.25, 0.5, 0.0, 0.25], dtype=torch.float64))
