"""RaSA: with the factors of a LoRA, each correction is a LoRA whose rank grows with the number of layers."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import lora, rasa

pytestmark = pytest.mark.torch
TARGETS = ("attn.q", "mlp.down")


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_rank_grows_with_the_layers_and_the_factors_do_not(family: str) -> None:
    model = rasa.apply(tiny.model(family), r=3, k=1, alpha=6.0, dropout=0.0, targets=TARGETS)
    shake(model)
    children = [child for _, child in kit.at_sites(model, "rasa", rasa.RaSA)]
    rank = 2 + len(children) // len(TARGETS)
    assert rank > 3
    same, small = (lora.apply(tiny.model(family), r=r, alpha=float(r), targets=TARGETS) for r in (rank, 3))
    for child, (_, pair) in zip(children, kit.at_sites(same, "lora", lora.LoRA), strict=True):
        assert torch.linalg.matrix_rank(child.delta()) == rank
        pair.A.data = torch.cat([child.A, child.pool.A_s])
        pair.B.data = torch.cat([child.B * child.g, child.pool.B_s * child.pool.e[child.layer]], dim=1)
    assert torch.allclose(tiny.loss(model, family), tiny.loss(same, family)), "a LoRA of this rank"
    weights = sum(p.numel() for name, p in model.named_parameters() if name.endswith((".g", ".e")))
    sizes = [sum(p.numel() for p in m.parameters() if p.requires_grad) for m in (model, small)]
    assert sizes[0] - weights == sizes[1]
