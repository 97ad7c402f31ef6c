"""CODA-Prompt: a prefix is a sum of components that the task's own loss weighs; older ones take part and stay."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from peftonomy import UsageError
from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import coda_prompt

pytestmark = pytest.mark.torch
SIZES: dict[str, Any] = {"components": 2, "prompt_length": 4, "layers": 1, "tasks": 3}


def _applied(**more: Any) -> tuple[torch.nn.Module, coda_prompt.Components]:
    model = coda_prompt.apply(tiny.model("vit"), **SIZES | more)
    [place] = [child for child in kit.attached(model, "coda_prompt") if isinstance(child, coda_prompt.Components)]
    return model, place


def test_the_task_trains_what_weighs_its_components_and_leaves_the_older_ones() -> None:
    model, place = _applied()
    pixels = torch.randn(3, 3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    logits = model.train()(pixel_values=pixels).logits
    logits.square().sum().backward()
    for name in "PKA":
        own, old = place.get_parameter(name), place.get_parameter(f"old_{name}")
        assert own.grad is not None
        assert own.grad.flatten(1).any(1).all(), "no choice stands between the loss and the keys"
        assert old.grad is None
    weights = coda_prompt.weights(place.query.query, place.get_parameter("K"), place.get_parameter("A"))
    assert weights.shape == (3, 2)
    assert (weights < 0).any(), "no softmax"
    assert not torch.allclose(weights[0], weights[1])

    place.get_parameter("old_P").data.zero_()
    assert not torch.allclose(model(pixel_values=pixels).logits, logits), "older components are a part of the sum"
    place.get_parameter("P").data.zero_()
    assert not place.prefix(place.query.query).any()


def test_new_components_start_orthogonal_to_all_older_ones() -> None:
    model, place = _applied()
    for name in "PKA":
        every = torch.cat([place.get_parameter(f"old_{name}"), place.get_parameter(name)]).flatten(1)
        assert torch.allclose(every @ every.T, torch.eye(6, dtype=torch.float64), atol=1e-5)
    given = {name: torch.randn_like(place.get_parameter(f"old_{name}")) for name in "PKA"}
    coda_prompt.load(model, [given])
    for name, older in given.items():
        own = place.get_parameter(name).flatten(1)
        assert torch.equal(place.get_parameter(f"old_{name}"), older)
        assert torch.allclose(own.norm(dim=1), torch.ones(2, dtype=torch.float64), atol=1e-5)
    assert torch.equal(coda_prompt.behind(torch.zeros(0, 5), 0), torch.zeros(0, 5))
    basis = torch.eye(5)[:3]
    assert torch.allclose(coda_prompt.behind(basis, 2) @ basis.T, torch.zeros(2, 3), atol=1e-6)


def test_models_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match="at most 12 components were expected, since they are orthogonal; found 14"):
        _applied(components=7, tasks=2)
    with pytest.raises(UsageError, match="a model of images alone was expected"):
        coda_prompt.apply(tiny.model("bert"))
