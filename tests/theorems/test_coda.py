"""CoDA: the soft choice is the optimum it stands for, and a layer works for its chosen tokens only."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.optimize import brentq
from torch import Tensor
from torch.nn.functional import layer_norm

from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import coda

pytestmark = pytest.mark.torch


def optimum(s: Tensor, k: int, epsilon: float) -> Tensor:
    """The maximum of <s, x> + epsilon H(x): min(1, exp((s + a) / epsilon)), with the a at which they sum to k."""

    def capped(a: float) -> Tensor:
        return torch.exp((s + a) / epsilon).clamp(max=1.0)

    return capped(brentq(lambda a: float(capped(a).sum()) - k, -100.0, 100.0))


@pytest.mark.parametrize("k", [1, 3, 7])
@pytest.mark.parametrize("epsilon", [0.3, 1.0, 3.0])
def test_soft_top_k_is_the_entropy_regularised_optimum(k: int, epsilon: float) -> None:
    torch.manual_seed(0)
    s = torch.randn(9, dtype=torch.float64)
    found = coda.soft_top_k(s, k, epsilon=epsilon, steps=500)
    assert torch.allclose(found, optimum(s, k, epsilon), atol=1e-3)
    assert math.isclose(found.sum(), k, rel_tol=1e-3)


def test_soft_top_k_has_its_two_limits_and_a_gradient() -> None:
    s = torch.tensor([0.3, -1.0, 2.0, 0.9], dtype=torch.float64, requires_grad=True)
    hard = coda.soft_top_k(s, 2, epsilon=0.03)
    assert torch.allclose(hard.detach(), torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float64), atol=1e-2)
    even = coda.soft_top_k(s, 2, epsilon=1e4)
    assert torch.allclose(even.detach(), torch.full((4,), 0.5, dtype=torch.float64), atol=1e-3)
    assert torch.autograd.gradcheck(lambda x: coda.soft_top_k(x, 2, epsilon=0.7), s)


@pytest.mark.parametrize("attention", ["k_to_k", "k_to_all"])
def test_masking_computes_what_a_run_on_the_chosen_tokens_computes(attention: str) -> None:
    """The first layer of BERT, run for real on the gathered tokens, against the adapted layer."""
    torch.manual_seed(0)
    plain, model = tiny.model("bert"), coda.apply(tiny.model("bert"), bottleneck=3, reduction=2, attention=attention)
    shake(model)
    layer, adapted = (kit.blocks(m, "layer")[0].module for m in (plain, model))
    (adapter,) = kit.attached(adapted, "coda")
    x = torch.randn(1, 7, 12, dtype=torch.float64)
    chosen, weights = adapter.route(layer_norm(x, x.shape[-1:]), None)
    picked = x[:, chosen[0]]
    with torch.no_grad():
        heavy = layer(picked) if attention == "k_to_k" else layer(x)[:, chosen[0]]
        found, wanted = adapted(x), without_the_layer(adapter, x)
    wanted[:, chosen[0]] += weights[chosen][None, :, None] * (heavy - picked)
    assert int(chosen.sum()) == 4
    assert torch.allclose(found, wanted, atol=1e-9)


def without_the_layer(adapter: coda.ConditionalAdapter, x: Tensor) -> Tensor:
    adapter.held = x, layer_norm(x, x.shape[-1:]), torch.zeros_like(x[..., 0])
    return adapter.leave(x)


def test_padding_is_never_chosen() -> None:
    model = coda.apply(tiny.model("roberta"), bottleneck=2, reduction=3)
    shake(model)
    ids = torch.randint(3, 37, (1, 9))
    mask = torch.tensor([[1, 1, 1, 1, 0, 0, 0, 0, 0]])
    for adapter in kit.attached(model, "coda"):
        adapter.w_r.data *= 10
    with torch.no_grad():
        states = [model(input_ids=ids.where(mask.bool(), other), attention_mask=mask) for other in (5, 17)]
    first, second = (state.last_hidden_state[:, :4] for state in states)
    assert torch.allclose(first, second)


def test_a_decoder_is_refused() -> None:
    with pytest.raises(ValueError, match="needs an encoder"):
        coda.apply(tiny.model("llama"))
