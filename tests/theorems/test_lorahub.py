"""LoraHub: a search without gradients finds the weights of a known mixture."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import lora, lorahub

pytestmark = pytest.mark.torch
TRUTH = torch.tensor([0.9, -0.6, 0.0], dtype=torch.float64)


def trained(seed: int) -> nn.Module:
    """A LoRA of some task, as far from its start as training takes it."""
    torch.manual_seed(seed)
    model = lora.apply(tiny.model("llama"), r=2, alpha=4.0)
    shake(model)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def hub(modules: int = 3) -> nn.Module:
    model = lorahub.apply(tiny.model("llama"), modules=modules, r=2, alpha=4.0)
    for i in range(modules):
        lorahub.load(model, i, trained(i))
    return model


def outputs(model: nn.Module, weights: Tensor | None = None) -> Tensor:
    with torch.no_grad():
        if weights is not None:
            lorahub.weights(model).copy_(weights)
        return tiny.outputs(model, "llama")


def test_the_search_recovers_known_weights_up_to_their_sign() -> None:
    model = hub()
    wanted = outputs(model, TRUTH)
    torch.manual_seed(0)
    scores = lorahub.search(model, lambda: float((outputs(model) - wanted).square().mean()), budget=300, penalty=0.0)
    found = lorahub.weights(model).detach()
    found = found * torch.sign(found[0])
    assert torch.allclose(found, TRUTH, atol=0.02), found
    assert scores == sorted(scores, reverse=True)
    assert scores[-1] < 1e-3 * scores[0]


def test_it_needs_no_gradient_and_keeps_its_bounds_and_budget() -> None:
    """A loss of steps, whose gradient is zero wherever it exists."""
    model, looks = hub(), []
    wanted = outputs(model, TRUTH)

    def loss() -> float:
        looks.append(lorahub.weights(model).detach().clone())
        return float((outputs(model) - wanted).abs().mean().mul(10).round())

    torch.manual_seed(1)
    scores = lorahub.search(model, loss, budget=60, bound=0.7, penalty=0.0)
    assert scores[-1] < scores[0]
    assert len(looks) == len(scores) == 60
    assert torch.stack(looks).abs().max() <= 0.7
    assert torch.equal(looks[0], torch.zeros_like(looks[0]))


def test_the_penalty_keeps_a_useless_mixture_at_zero() -> None:
    model = hub()
    torch.manual_seed(2)
    lorahub.search(model, lambda: 1.0, budget=200)
    assert lorahub.weights(model).abs().max() == 0
    assert torch.allclose(outputs(model), outputs(tiny.model("llama")))


def test_factors_are_mixed_not_products() -> None:
    model = hub()
    outputs(model, TRUTH)
    for _, child in lorahub.hubs(model):
        n = range(3)
        pairs = [TRUTH[i] * TRUTH[j] * (child.B[i] @ child.A[j]) for i in n for j in n]
        products = [TRUTH[i] * (child.B[i] @ child.A[i]) for i in n]
        assert torch.allclose(child.delta(), child.scale * torch.stack(pairs).sum(0))
        assert not torch.allclose(child.delta(), child.scale * torch.stack(products).sum(0), atol=1e-2)


@pytest.mark.parametrize("index", [0, 2])
def test_one_module_alone_is_the_lora_it_was(index: int) -> None:
    model = hub()
    assert torch.allclose(outputs(model, torch.eye(3, dtype=torch.float64)[index]), outputs(trained(index)))
    assert torch.allclose(outputs(model, -TRUTH), outputs(model, TRUTH))


def test_gradients_vanish_where_the_search_begins() -> None:
    model = hub()
    outputs(model, torch.zeros(3, dtype=torch.float64))
    tiny.loss(model, "llama").backward()
    grad = lorahub.weights(model).grad
    assert grad is not None
    assert grad.abs().max() == 0
