"""Hadamard adapter: where it stands, and what it can be instead of."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import hadamard_adapter

pytestmark = pytest.mark.torch


def test_it_stands_between_the_output_projection_and_the_norm_of_the_block() -> None:
    model: Any = hadamard_adapter.apply(tiny.model("bert"))
    shake(model)
    block = model.bert.encoder.layer[1].attention.output
    found: list[torch.Tensor] = []
    block.LayerNorm.register_forward_pre_hook(lambda _, args: found.append(args[0]))
    block.register_forward_pre_hook(lambda _, args: found.extend(args[:2]))
    with torch.no_grad():
        tiny.outputs(model, "bert")
        x, residual, normed = found
        child = dict(block.dense.named_children())["hadamard_adapter"]
        a = x @ block.dense.weight.T + block.dense.bias
        assert torch.allclose(normed, child.w * a + child.b + residual)
    assert block.LayerNorm.weight.requires_grad
    assert not model.bert.encoder.layer[1].output.LayerNorm.weight.requires_grad


def test_the_first_layers_can_be_left_out() -> None:
    model = hadamard_adapter.apply(tiny.model("bert"), skip=1)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert len(trained) == 4
    assert all(".layer.1." in name for name in trained)


@pytest.mark.parametrize("family", ["t5", "llama"])
def test_without_a_bias_to_merge_into_there_is_no_shift(family: str) -> None:
    model = hadamard_adapter.apply(tiny.model(family))
    children = [child for _, child in kit.at_sites(model, "hadamard_adapter", hadamard_adapter.HadamardAdapter)]
    assert children
    assert all(child.b is None for child in children)
