"""L2P: an image uses the prompts of the nearest keys alone, and the keys learn only from how near they are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from peftonomy import UsageError
from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import l2p

pytestmark = pytest.mark.torch
SIZES: dict[str, Any] = {"pool_size": 6, "prompt_length": 2, "top_k": 2}


def _pool(model: torch.nn.Module) -> l2p.Pool:
    [pool] = kit.attached(model, "l2p")
    assert isinstance(pool, l2p.Pool)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in (pool.P, pool.K):
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return pool


def _pixels(n: int = 4) -> Tensor:
    return torch.randn(n, 3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_prompts_of_other_keys_have_no_effect_and_no_gradient() -> None:
    model = l2p.apply(tiny.model("vit"), **SIZES, batchwise=False, pull=0.25)
    pool, pixels = _pool(model), _pixels()
    logits = model(pixel_values=pixels).logits
    logits.square().sum().backward()
    cosines = torch.cosine_similarity(pool.query[:, None], pool.K.detach(), dim=-1)
    chosen = cosines.topk(2).indices
    assert pool.P.grad is not None and pool.K.grad is not None      # noqa: PT018
    used = torch.zeros(6, dtype=torch.bool).index_fill(0, chosen.flatten(), True)
    assert 2 < int(used.sum()) < 6, "images differ in their choices"
    assert pool.P.grad.flatten(1).any(1).equal(used)

    keys = pool.K.detach().clone().requires_grad_()
    near = torch.cosine_similarity(pool.query[:, None], keys, dim=-1).gather(1, chosen).sum() / len(pixels)
    (-0.25 * near).backward()
    assert torch.allclose(pool.K.grad, keys.grad), "whatever the loss of the task is"       # type: ignore[arg-type]

    pool.P.data[~used] = 9.0
    assert torch.equal(model(pixel_values=pixels).logits, logits)


def test_the_query_is_of_the_plain_model() -> None:
    model = l2p.apply(tiny.model("vit"), **SIZES)
    pool, pixels = _pool(model), _pixels()
    model.train()(pixel_values=pixels)
    with torch.no_grad():
        plain = tiny.model("vit").base_model(pixel_values=pixels).last_hidden_state[:, 0]
    assert torch.equal(pool.query, plain)
    assert model.training
    assert all(part.training for part in model.modules())


def test_a_batch_agrees_on_what_most_of_it_chose() -> None:
    together = l2p.apply(tiny.model("vit"), **SIZES, batchwise=True)
    alone = l2p.apply(tiny.model("vit"), **SIZES, batchwise=False)
    _pool(together), _pool(alone)
    pixels = _pixels()
    one = together(pixel_values=pixels[:1]).logits
    assert torch.allclose(one, alone(pixel_values=pixels[:1]).logits)
    votes = torch.tensor([[0.9, 0.8, 0.0], [0.0, 0.9, 0.8], [0.1, 0.9, 0.8]])
    assert l2p.most(votes, 2, together=False).tolist() == [[0, 1], [1, 2], [1, 2]]
    assert l2p.most(votes, 2, together=True).tolist() == [[1, 2]] * 3


def test_other_models_are_refused() -> None:
    with pytest.raises(UsageError, match="a model of images alone was expected"):
        l2p.apply(tiny.model("bert"))
