"""ATTEMPT: the mixture that an input gets, and that it is the input's own."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from torch import Tensor, nn

from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import attempt, spot

pytestmark = pytest.mark.torch


def adapted(temperature: float = 1.0) -> nn.Module:
    torch.manual_seed(0)
    model = attempt.apply(tiny.model("llama"), prompt_length=3, n_sources=2, bottleneck=4, temperature=temperature)
    shake(model)
    return model


def prompts(model: nn.Module) -> attempt.Attempt:
    return cast(attempt.Attempt, kit.attached(model, "attempt")[0])


def one_by_one(child: attempt.Attempt, x: Tensor) -> Tensor:
    """The prompt of one input (n, d_model), without broadcasting and without hooks."""
    pooled = child.W_up @ torch.nn.functional.silu(child.W_down @ x.max(dim=0).values)
    z = (pooled - pooled.mean()) / torch.sqrt(pooled.var(unbiased=False) + 1e-5) * child.gain + child.bias
    every = [*child.S, child.P]
    weights = torch.stack([p.max(dim=0).values @ z / child.temperature for p in every]).softmax(0)
    total = child.P.clone()
    for weight, p in zip(weights, every, strict=True):
        total = total + weight * p
    return total


def test_each_input_gets_its_own_mixture_and_padding_has_no_part_in_it() -> None:
    """The same outputs as with that input's mixture as an ordinary prompt."""
    model = adapted()
    found = tiny.outputs(model, "llama")
    batch = tiny.batch("llama")
    lengths = batch["attention_mask"].sum(dim=1)
    embedded = model.get_submodule("model.embed_tokens")(batch["input_ids"])
    ends = lengths.cumsum(0).tolist()
    mixtures = []
    for row, end in enumerate(ends):
        mixtures.append(one_by_one(prompts(model), embedded[row, : lengths[row]]).detach())
        plain = spot.start(spot.apply(tiny.model("llama"), prompt_length=3), mixtures[-1])
        wanted = tiny.outputs(plain, "llama")[end - lengths[row] : end]
        assert torch.allclose(found[end - lengths[row] : end], wanted, atol=tiny.TOLERANCE)
    assert not torch.allclose(mixtures[0], mixtures[-1], atol=1e-2), "inputs should get different mixtures"


def test_heat_makes_the_mixture_even_and_cold_picks_one() -> None:
    x = torch.randn(5, 7, 18, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    present = torch.ones(5, 7, dtype=torch.bool)
    hot = prompts(adapted(temperature=1e9)).weigh(x, present)
    cold = prompts(adapted(temperature=1e-6)).weigh(x, present)
    assert torch.allclose(hot, torch.full_like(hot, 1 / 3))
    assert torch.allclose(cold.amax(dim=-1), torch.ones(5, dtype=torch.float64))


def test_source_prompts_are_used_and_stay_as_they_are() -> None:
    model = adapted()
    sources = [torch.randn(3, 18, dtype=torch.float64) for _ in range(2)]
    before = tiny.outputs(model, "llama")
    attempt.load(model, sources)
    assert not torch.allclose(tiny.outputs(model, "llama"), before, atol=1e-3)
    tiny.loss(model, "llama").backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1).step()
    assert all(torch.equal(p, q) for p, q in zip(prompts(model).S, sources, strict=True))


def test_a_later_part_of_the_input_gets_no_mixture() -> None:
    """With the first part in the cache, the rest has as many outputs as vectors, and the mixture of the first part."""
    model = adapted()
    x = tiny.plain("llama").get_input_embeddings()(torch.tensor([[3, 4, 5, 6]]))       # type: ignore[operator]
    begun = model(inputs_embeds=x[:, :3], use_cache=True)
    rest = model(inputs_embeds=x[:, 3:], cache=begun.cache, use_cache=True).logits
    fixed, child = begun.logits, prompts(model)
    assert rest.shape[1] == 1
    p = child.mixed(torch.nn.functional.pad(x[:, :3], (0, 0, 3, 0)), None)[:, :3]
    plain = tiny.plain("llama")(inputs_embeds=torch.cat([p, x], dim=1)).logits
    assert torch.allclose(torch.cat([fixed, rest], dim=1), plain[:, 3:])
