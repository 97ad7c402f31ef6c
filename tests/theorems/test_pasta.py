"""PASTA: special tokens are changed, and no other."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import pasta

pytestmark = pytest.mark.torch


def entering(model: nn.Module, layer: int, **batch: Tensor) -> Tensor:
    """The states that a layer is given, after all that acts before it: (batch, n, d_model)."""
    found: list[Tensor] = []

    def look(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.append(args[0] if args else kwargs["hidden_states"])

    block = [b for b in kit.blocks(model, "layer") if b.stack == "encoder"][layer]
    hook = block.module.register_forward_pre_hook(look, with_kwargs=True)
    with torch.no_grad():
        model(**batch)
    hook.remove()
    return found[0]


def vectors(model: nn.Module, layer: int) -> Tensor:
    return cast(pasta.Vectors, kit.attached(model, "pasta")[layer]).v.detach()


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_only_the_special_tokens_get_their_vectors(family: str) -> None:
    model = pasta.apply(tiny.model(family), n_special=3)
    shake(model)
    batch = tiny.batch(family)
    special = torch.zeros_like(batch["input_ids"])
    for row, places in enumerate([(0, 3, 6), (0, 2, 4), (0, 1, 3), (0, 4)]):
        special[row, list(places)] = 1
    with_them = entering(model, 0, **batch, special_tokens_mask=special)
    without = entering(tiny.model(family), 0, **batch)
    change = with_them - without
    assert (change[special == 0] == 0).all()
    for row in range(4):
        for p, place in enumerate(special[row].nonzero()[:, 0].tolist()):
            assert torch.allclose(change[row, place], vectors(model, 0)[p])


def test_without_a_mask_it_is_the_first_token_and_the_last_before_the_padding() -> None:
    model = pasta.apply(tiny.model("bert"), n_special=2)
    shake(model)
    batch = tiny.batch("bert")
    change = entering(model, 0, **batch) - entering(tiny.model("bert"), 0, **batch)
    touched = change.abs().amax(dim=-1) > 0
    ends = batch["attention_mask"].sum(dim=1) - 1
    for row, end in enumerate(ends.tolist()):
        assert touched[row].nonzero()[:, 0].tolist() == [0, end]
        assert torch.allclose(change[row, end], vectors(model, 0)[1])


def test_without_a_mask_a_format_of_three_ends_with_two() -> None:
    model = pasta.apply(tiny.model("bert"), n_special=3)
    child = cast(pasta.Vectors, kit.attached(model, "pasta")[0])
    child.tokens.present = torch.tensor([[1, 1, 1, 1, 0]])
    wanted = torch.tensor([[[1, 0, 0], [0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]]]).bool()
    assert torch.equal(child.tokens.places(torch.zeros(1, 5, 12), 3), wanted)


def test_every_layer_has_vectors_of_its_own() -> None:
    model = pasta.apply(tiny.model("bert"), n_special=2)
    nn.init.zeros_(cast(pasta.Vectors, kit.attached(model, "pasta")[0]).v)
    batch = tiny.batch("bert")
    plain = entering(tiny.model("bert"), 1, **batch)
    change = entering(model, 1, **batch) - plain
    assert torch.allclose(change[:, 0], vectors(model, 1)[0].expand(4, -1), atol=1e-12)
    assert (change[:, 1:2] == 0).all()
