"""LPT: below the inserted prompt the model is the plain one, and nothing of it takes part in the backward pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from peftonomy import UsageError
from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import late_prompt_tuning as late

pytestmark = pytest.mark.torch
IDS = torch.tensor([[3, 4, 5, 6], [9, 8, 7, 2]])


def _applied(kind: str = "bert", **more: Any) -> tuple[Any, late.Generator]:
    torch.manual_seed(0)
    model = late.apply(tiny.model(kind), **{"prompt_length": 2, "insert_layer": 1, "bottleneck": 3, **more}).eval()
    [child] = kit.attached(model, "late_prompt_tuning")
    assert isinstance(child, late.Generator)
    return model, child


def _run(model: Any, ids: Tensor) -> tuple[list[Tensor], Any]:
    """The states that enter each layer, with the prompt, and the output."""
    seen: list[Tensor] = []

    def note(_: Any, args: Any, given: dict[str, Any]) -> None:
        seen.append(given["hidden_states"])

    later = [block.module for block in kit.blocks(model, "layer")[1:]]
    handles = [layer.register_forward_pre_hook(note, with_kwargs=True) for layer in later]
    found = model(input_ids=ids)
    for handle in handles:
        handle.remove()
    return seen, found


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_the_prompt_is_generated_from_the_plain_models_state(kind: str) -> None:
    model, child = _applied(kind)
    [entered], _ = _run(model, IDS)
    plain: Any = tiny.plain(kind)
    below = plain.base_model(input_ids=IDS, output_hidden_states=True).hidden_states[1]
    assert torch.allclose(entered[:, 2:], below), "below the prompt the model is the plain one"
    down, b_down, up, b_up = map(child.get_parameter, ("W_down", "b_down", "W_up", "b_up"))
    z = torch.relu(below[:, 0] @ down.T + b_down) @ up.T + b_up
    assert torch.allclose(entered[:, :2], z.view(2, 2, -1))
    assert not torch.allclose(entered[0, :2], entered[1, :2]), "every input has its own"


def test_the_backward_pass_ends_at_the_prompt() -> None:
    model, child = _applied()
    below: list[Any] = []
    kit.blocks(model, "layer")[0].module.register_forward_hook(lambda _, args, output: below.append(output))
    model(input_ids=IDS).logits.sum().backward()
    state = below[0] if isinstance(below[0], Tensor) else below[0][0]
    assert not state.requires_grad, "nothing below it wants a gradient"
    assert all(child.get_parameter(name).grad is not None for name in ("W_down", "b_down", "W_up", "b_up"))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_padding_changes_nothing(kind: str, attention: str) -> None:
    model, _ = _applied(kind)
    model.set_attn_implementation(attention)
    mask = (torch.arange(6) < 4).long().expand(2, -1)
    padded = torch.cat([IDS, torch.full((2, 2), 1)], dim=1)
    a = model(input_ids=padded, attention_mask=mask)[0]
    b = model(input_ids=IDS, attention_mask=mask[:, :4])[0]
    assert torch.allclose(a if kind == "bert" else a[:, :4], b)


def test_a_mask_has_a_column_for_each_vector() -> None:
    seen = torch.tensor([[[[True, True, False]]]])
    assert late.widened(seen, 2).tolist() == [[[[True, True, True, True, False]]]]
    square = seen.expand(-1, -1, 3, -1)
    assert torch.equal(late.widened(square, 2), late.widened(seen, 2).expand(-1, -1, 5, -1))
    added = torch.tensor([[[[0.0, -9.0]]]])
    assert late.widened(added, 1).tolist() == [[[[0.0, 0.0, -9.0]]]]


def test_other_models_are_refused() -> None:
    for kind in ("llama", "vit", "t5"):
        with pytest.raises(UsageError, match="an encoder of texts"):
            late.apply(tiny.model(kind))
    with pytest.raises(UsageError, match="fewer layers before the prompt were expected: 2 of 2 leave none"):
        late.apply(tiny.model("bert"), insert_layer=2)
