"""X-LoRA: a sure router is the LoRA that it picks; peft's classifier gives the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import XLoraConfig
from peft.tuners.xlora.classifier import XLoraClassifier

from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import lora, x_lora

pytestmark = pytest.mark.torch


def outputs(model: torch.nn.Module, family: str) -> torch.Tensor:
    with torch.no_grad():
        return tiny.outputs(model, family)


@pytest.mark.parametrize("family", ["llama", "t5", "gpt2"])
def test_a_router_that_is_sure_is_the_lora_that_it_picks(family: str) -> None:
    expert = lora.apply(tiny.model(family), r=2, alpha=3.0)
    shake(expert)
    ours: Any = x_lora.load(x_lora.apply(tiny.model(family), n_experts=3, r=2), 1, expert)
    ours.x_lora.b_out.data = torch.tensor([0.0, 1e4, 0.0]).double()
    assert torch.allclose(outputs(ours, family), outputs(expert, family), atol=tiny.TOLERANCE)


def test_tokens_of_one_input_are_weighed_differently_by_what_the_base_model_says() -> None:
    torch.manual_seed(0)
    ours: Any = x_lora.apply(tiny.model("llama"), n_experts=2, r=2, layerwise=True)
    outputs(ours, "llama")
    shares = ours.x_lora.shares["decoder"]
    plain: Any = tiny.plain("llama")
    with torch.no_grad():
        states = plain.model(**tiny.batch("llama")).last_hidden_state
        assert torch.allclose(shares, ours.x_lora(states))
    assert shares.shape[2:] == (4, 2)           # two projections in each of two layers
    assert torch.allclose(shares.sum(-1), torch.ones(()).double())
    assert (shares[0, 0] - shares[0, 1]).abs().max() > 1e-3


@pytest.mark.parametrize("layerwise", [False, True])
@pytest.mark.parametrize("depth", [1, 2, 4])
def test_pefts_classifier_gives_the_same_weights(depth: int, layerwise: bool) -> None:
    torch.manual_seed(0)
    router = x_lora.Router(6, 3, 5 if layerwise else 1, depth=depth, size=7, p=0.0, tau=0.5)
    config = XLoraConfig(
        hidden_size=6, adapters={}, xlora_depth=depth, xlora_size=7, layerwise_scalings=layerwise,
        softmax_temperature=0.5,
    )
    theirs = XLoraClassifier(torch.nn.Linear(1, 1), config, 3, 5, torch.device("cpu")).eval()
    linears = [m for m in theirs.layers if isinstance(m, torch.nn.Linear)]
    weights = [*([router.W_in] if depth > 1 else []), *router.W_mid, router.W_out]
    biases = [*([router.b_in] if depth > 1 else []), *router.b_mid, router.b_out]
    states, result = torch.randn(2, 4, 6), torch.nn.Module()
    result.hidden_states = [states]
    with torch.no_grad():
        for linear, weight, bias in zip(linears, weights, biases, strict=True):
            linear.weight.copy_(weight)
            linear.bias.copy_(bias)
        found = theirs(result, input_ids=torch.zeros(2, 4))         # (batch, length, modules, experts)
        assert torch.allclose(router(states).expand(-1, -1, 5, -1), found, atol=1e-6)
