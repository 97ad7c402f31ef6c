"""AttentionFusion: what the head reads, from the model's own hidden states."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from torch import Tensor

from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import attentionfusion as fusion

pytestmark = pytest.mark.torch


def by_hand(states: tuple[Tensor, ...], q: Tensor) -> Tensor:
    """The mixture for each token by itself."""
    mixed = torch.empty_like(states[0])
    for b, j in torch.cartesian_prod(torch.arange(len(mixed)), torch.arange(mixed.shape[1])).tolist():
        scores = [float(torch.dot(q, h[b, j])) / len(q) ** 0.5 for h in states]
        weights = [torch.tensor(s - max(scores)).exp().item() for s in scores]
        mixed[b, j] = sum(w / sum(weights) * h[b, j] for w, h in zip(weights, states, strict=True))
    return mixed


@pytest.mark.parametrize("family", ["roberta", "llama", "t5"])
def test_the_head_reads_what_each_token_picks_from_its_own_layers(family: str) -> None:
    plain = cast(Any, tiny.model(family))
    with torch.no_grad():
        found = plain(**tiny.batch(family), output_hidden_states=True)
        states = found.decoder_hidden_states if family == "t5" else found.hidden_states
        model = fusion.apply(tiny.model(family))
        [child] = kit.attached(model, "attentionfusion")
        assert isinstance(child, fusion.Fusion)
        child.q.normal_(generator=torch.Generator().manual_seed(0))
        wanted = by_hand(states, child.q)
        kept: list[Tensor] = []
        base = cast(Any, model).base_model
        getattr(base, "decoder", base).register_forward_hook(lambda m, a, out: kept.append(out.last_hidden_state))
        model(**tiny.batch(family))
    assert torch.allclose(kept[0], wanted, atol=tiny.TOLERANCE)


def test_a_query_of_zero_averages_and_a_long_one_picks() -> None:
    child = fusion.Fusion(4, n_layers=2)
    h = torch.randn(3, 2, 5, 4)
    with torch.no_grad():
        child.q.zero_()
        assert torch.allclose(child.fuse(h), h.mean(dim=0), atol=1e-6)
        child.q.copy_(1e4 * torch.randn(4))
        picked = (h @ child.q).argmax(dim=0)
        assert torch.allclose(child.fuse(h), h.gather(0, picked[None, ..., None].expand(1, 2, 5, 4))[0], atol=1e-3)


def test_the_network_is_read_and_not_trained_through() -> None:
    model = fusion.apply(tiny.model("gpt2"))
    needed: list[bool] = []
    for block in kit.blocks(model, "layer"):
        block.module.register_forward_hook(
            lambda m, a, out: needed.append((out[0] if isinstance(out, tuple) else out).requires_grad)
        )
    tiny.loss(model, "gpt2").backward()
    assert needed == [False, False]
