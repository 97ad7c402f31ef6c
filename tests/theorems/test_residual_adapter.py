"""Residual adapter: behind the whole layer, with a norm that makes it blind to the scale of the hidden states."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import residual_adapter

pytestmark = pytest.mark.torch


def adapted(family: str) -> tuple[nn.Module, list[residual_adapter.ResidualAdapter]]:
    torch.manual_seed(0)
    model = residual_adapter.apply(tiny.model(family), bottleneck=4)
    children = kit.attached(model, "residual_adapter")
    adapters = [child for child in children if isinstance(child, residual_adapter.ResidualAdapter)]
    for adapter in adapters:
        for parameter in adapter.parameters():
            parameter.data.normal_(std=0.5)
    return model, adapters


def test_its_change_does_not_grow_with_the_hidden_states() -> None:
    _, (adapter, *_) = adapted("gpt2")
    h = torch.randn(5, 24, dtype=torch.float64)
    change, larger = (adapter.behind(scale * h) - scale * h for scale in (1, 50))
    assert torch.allclose(change, larger, atol=1e-3)
    assert change.abs().max() > 0.1


@pytest.mark.parametrize("family", ["gpt2", "t5", "bert"])
def test_it_changes_what_a_whole_layer_gives_out(family: str) -> None:
    """The layer itself is run again without the adapter, on what it was given."""
    model, adapters = adapted(family)
    layers = [block.module for block in kit.blocks(model, "layer")]
    assert len(layers) == len(adapters)
    calls: list[tuple[Any, Any, Any]] = []
    handle = layers[-1].register_forward_hook(lambda m, a, k, out: calls.append((a, k, out)), with_kwargs=True)
    with torch.no_grad():
        tiny.outputs(model, family)
        handle.remove()
        kit.detach(model, "residual_adapter")
        ((args, kwargs, found),) = calls
        plain = layers[-1](*args, **kwargs)
    first, wanted = (out[0] if isinstance(out, tuple) else out for out in (found, plain))
    assert torch.allclose(first, adapters[-1].behind(wanted))
    assert not torch.allclose(first, wanted, atol=0.1)
