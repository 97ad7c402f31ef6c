"""LongLoRA: heads attend within groups, shifted by half a group in half of them; embedding and norms are trained."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import longlora

pytestmark = pytest.mark.torch


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("n_heads", [2, 3, 4])
def test_shifted_attention_is_full_attention_within_each_group(n_heads: int) -> None:
    q, k, v = _random(3, 2, n_heads, 16, 5)
    found = longlora.attend(q, k, v)
    for head in range(n_heads):
        bounds = [0, 4, 8, 12, 16] if head < n_heads // 2 else [0, 2, 6, 10, 14, 16]
        for a, b in itertools.pairwise(bounds):
            here = [one[:, head : head + 1, a:b] for one in (q, k, v)]
            full = torch.nn.functional.scaled_dot_product_attention(here[0], here[1], here[2], is_causal=True)
            assert torch.allclose(found[:, head, a:b], full[:, 0])


def test_neighbouring_groups_exchange_information_and_none_sees_what_follows() -> None:
    """A second round, in which each half of the heads reads the other half, carries a value into the next group."""
    q, k, v = _random(3, 1, 2, 16, 5)
    v.requires_grad_(True)
    once = longlora.attend(q, k, v)
    twice = longlora.attend(q, k, once.flip(1))                     # halves of the heads swapped
    for out, reach in ((once, [4, 6]), (twice, [8, 6])):            # of the token at place 3, by head
        for head, end in enumerate(reach):
            seen = [i for i in range(16) if torch.autograd.grad(
                out[0, head, i].sum(), v, retain_graph=True)[0][0, :, 3].abs().sum() > 0]  # fmt: skip
            assert (seen[0], seen[-1]) == (3, end - 1)


def test_a_length_that_the_groups_do_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="18 tokens cannot be cut into 4 equal groups"):
        longlora.attend(*_random(3, 1, 2, 18, 5))
    with pytest.raises(ValueError, match="3 tokens"):
        longlora.attend(*_random(3, 1, 2, 3, 5))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_embedding_and_norms_are_trained_and_no_other_weight(family: str) -> None:
    model = longlora.apply(tiny.model(family))
    trained = {w.name for w in kit.weights(model) if w.value.requires_grad}
    assert trained == {w.name for w in kit.weights(model) if w.kind == "norm" or w.role == "embed.token"}
    head = model.get_output_embeddings()                            # type: ignore[operator]
    tied = head.weight is model.get_input_embeddings().weight       # type: ignore[operator]
    assert head.weight.requires_grad == tied == (family == "gpt2")
