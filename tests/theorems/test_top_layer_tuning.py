"""Top-layer tuning: training leaves the states before the last layers as they were, and their layers save nothing."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from torch import Tensor

from peftonomy import UsageError
from peftonomy.conformance import tiny
from reference_impls import top_layer_tuning

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "vit"])
@pytest.mark.parametrize("k", [1, 2])
def test_the_layers_are_those_whose_number_is_in_the_name(family: str, k: int) -> None:
    """LLaMA-Factory's rule: the name of a parameter contains the number of one of the last k layers."""
    model = top_layer_tuning.apply(tiny.model(family), k=k)
    numbers = [f".{number}." for number in range(2 - k, 2)]
    found = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert found == {name for name, _ in model.named_parameters() if any(number in name for number in numbers)}


def test_the_states_before_the_trained_layers_stay() -> None:
    model = cast(Any, top_layer_tuning.apply(tiny.model("llama"), k=1).eval())
    batch = tiny.batch("llama")
    with torch.no_grad():
        before = model(**batch, output_hidden_states=True).hidden_states
    optimiser = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=0.1)
    tiny.loss(model, "llama").backward()
    optimiser.step()
    with torch.no_grad():
        after = model(**batch, output_hidden_states=True).hidden_states
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [True, True, False]


def test_nothing_before_them_is_saved_for_the_backward_pass() -> None:
    """The frozen layer adds nothing to the tensors that autograd saves: each layer saves equally many."""
    saved = []
    for k in (1, 2):
        model = top_layer_tuning.apply(tiny.model("llama"), k=k)
        kept: list[Tensor] = []

        def pack(tensor: Tensor, kept: list[Tensor] = kept) -> Tensor:
            kept.append(tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            tiny.loss(model, "llama")
        saved.append(len(kept))
    layer = saved[1] - saved[0]
    assert layer > 20
    assert layer < saved[0] < 2 * layer


@pytest.mark.parametrize("family", ["swin", "clip", "t5"])
def test_stacks_of_different_depth_are_refused(family: str) -> None:
    with pytest.raises(UsageError, match="layers of several stacks"):
        top_layer_tuning.apply(tiny.model(family), k=1)
