"""LST: nothing of the backbone takes part in the backward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import lora, lst

pytestmark = pytest.mark.torch
FAMILIES = ("bert", "t5", "gpt2", "llama")


def backward(model: nn.Module, family: str) -> tuple[list[bool], set[int]]:
    """Whether each layer's state needs a gradient, and the addresses of all that the backward pass keeps."""
    needed: list[bool] = []
    kept: set[int] = set()

    def look(_: nn.Module, args: Any, output: Any) -> None:
        needed.append((output[0] if isinstance(output, tuple) else output).requires_grad)

    def keep(saved: Tensor) -> Tensor:
        kept.add(saved.untyped_storage().data_ptr())
        return saved

    hooks = [block.module.register_forward_hook(look) for block in kit.blocks(model, "layer")]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
        tiny.loss(model, family).backward()
    for hook in hooks:
        hook.remove()
    return needed, kept


def of_the_layers(model: nn.Module) -> set[int]:
    return {w.value.untyped_storage().data_ptr() for w in kit.weights(model) if w.layer is not None}


@pytest.mark.parametrize("family", FAMILIES)
def test_no_gradient_enters_the_backbone(family: str) -> None:
    torch.manual_seed(0)
    model = lst.apply(tiny.model(family), r=2 if family != "t5" else 1, drop_every=0)
    needed, kept = backward(model, family)
    assert not any(needed), "a state of the backbone waits for a gradient"
    assert not kept & of_the_layers(model), "weights of the backbone are kept for a backward pass through it"
    side = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad is not None for p in side)


def test_the_same_look_sees_that_lora_does_go_through_the_backbone() -> None:
    model = lora.apply(tiny.model("llama"), r=2)
    needed, kept = backward(model, "llama")
    assert all(needed)
    assert kept & of_the_layers(model)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_backbone_reaches_the_output_through_the_side_network_only(family: str) -> None:
    model = lst.apply(tiny.model(family), r=1)
    shake(model)
    [ladder] = (child for child in kit.attached(model, "lst") if isinstance(child, lst.Ladder))
    whole = tiny.outputs(model, family)
    nn.init.zeros_(ladder.U)
    last = tiny.outputs(model, family)
    assert not torch.allclose(whole, last, atol=1e-3)
    assert torch.allclose(last, last[:1].expand_as(last), atol=tiny.TOLERANCE)  # the head of one vector, b_U


def changed(model: nn.Module, family: str, change: Callable[[dict[str, Tensor]], None]) -> Tensor:
    """By how much each position's output moves when the input is changed."""
    found: list[Tensor] = []
    for touch in (False, True):
        batch = {name: value.clone() for name, value in tiny.batch(family).items()}
        if touch:
            change(batch)
        with torch.no_grad():
            found.append(cast(Any, model)(**batch).logits)
    before, after = found
    return torch.amax((before - after).abs(), dim=-1)


def test_the_side_network_neither_looks_ahead_nor_at_padding() -> None:
    model = lst.apply(tiny.model("llama"), r=2, drop_every=0)
    shake(model)

    def last(batch: dict[str, Tensor]) -> None:
        batch["input_ids"][:, -1] = 7

    moved = changed(model, "llama", last)
    assert moved[:, :-1].max() < 1e-9
    assert moved[0, -1] > 1e-3

    encoder = lst.apply(tiny.model("bert"), r=2, drop_every=0)
    shake(encoder)

    def padding(batch: dict[str, Tensor]) -> None:
        batch["input_ids"][1, 5:] = 7

    assert changed(encoder, "bert", padding)[1] < 1e-9


def test_a_cache_is_refused() -> None:
    model = cast(Any, lst.apply(tiny.model("llama"), r=2))
    plain = cast(Any, tiny.model("llama"))
    ids = tiny.batch("llama")["input_ids"]
    cache = plain(ids, use_cache=True).cache
    with pytest.raises(NotImplementedError, match="no cache"):
        model(ids[:, :1], cache=cache)
