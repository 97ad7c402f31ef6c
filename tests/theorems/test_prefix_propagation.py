"""Prefix-propagation: a prefix whose states depend on the input, with one vector more at every layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from peftonomy import UsageError
from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import prefix_propagation, prompt_tuning

pytestmark = pytest.mark.torch
IDS = torch.tensor([[3, 4, 5, 6], [9, 8, 7, 2]])


def _applied(kind: str = "bert", **more: Any) -> tuple[Any, list[prefix_propagation.Prefix]]:
    torch.manual_seed(0)
    model = prefix_propagation.apply(tiny.model(kind), **{"prompt_length": 2, **more}).eval()
    children = [child for child in kit.attached(model) if isinstance(child, prefix_propagation.Prefix)]
    for child in children:
        child.P.data.normal_()
    return model, children


def _states(model: nn.Module, ids: Tensor) -> list[Tensor]:
    """The states before each layer, after the method's own hook."""
    seen: list[Tensor] = []
    handles = [
        block.module.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        for block in kit.blocks(model, "layer")
    ]
    model(input_ids=ids)
    for handle in handles:
        handle.remove()
    return seen


def test_the_prefix_of_a_later_layer_depends_on_the_input() -> None:
    model, children = _applied()
    first, second, *_ = _states(model, IDS)
    assert first.shape[1] == IDS.shape[1] + 2
    assert torch.allclose(first[0, :2], first[1, :2]), "before the first layer it is the same for every input"
    assert not torch.allclose(second[0, :2], second[1, :2])
    children[1].P.data.zero_()
    _, bare, *_ = _states(model, IDS)
    children[1].P.data.normal_()
    _, full, *_ = _states(model, IDS)
    assert torch.allclose(full[:, :2] - bare[:, :2], children[1].P.expand(2, -1, -1)), "the vectors are added"
    assert torch.allclose(full[:, 2:], bare[:, 2:]), "and nothing to the tokens"


def test_with_vectors_of_zero_it_is_a_prompt_of_zeros() -> None:
    model, children = _applied()
    for child in children:
        child.P.data.zero_()
    plain = prompt_tuning.apply(tiny.model("bert"), prompt_length=2).eval()
    plain.get_parameter("prompt_tuning.P").data.zero_()
    assert torch.allclose(model(input_ids=IDS).logits, plain(input_ids=IDS).logits)


def test_padding_changes_nothing() -> None:
    model, _ = _applied()
    padded = torch.cat([IDS, torch.full((2, 2), 1)], dim=1)
    mask = (torch.arange(6) < 4).long().expand(2, -1)
    found = model(input_ids=padded, attention_mask=mask).logits
    assert torch.allclose(found, model(input_ids=IDS, attention_mask=mask[:, :4]).logits)


def test_dropout_acts_on_the_vectors_alone() -> None:
    model, children = _applied(dropout=0.5)
    for child in children:
        child.train()
    assert not torch.allclose(model(input_ids=IDS).logits, model(input_ids=IDS).logits)
    for child in children:
        child.P.data.zero_()
    assert torch.allclose(model(input_ids=IDS).logits, model(input_ids=IDS).logits)


@pytest.mark.parametrize("kind", ["llama", "vit", "t5"])
def test_other_models_are_refused(kind: str) -> None:
    with pytest.raises(UsageError, match="an encoder of texts"):
        prefix_propagation.apply(tiny.model(kind))
