"""NOAH: any sizes layer by layer, whose counts do not depend on the order of the layers, and a search below a limit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from peftonomy import UsageError
from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import noah
from reference_impls.noah import Sizes

pytestmark = pytest.mark.torch

NONE = (0, 0)


def _trained(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def _outputs(sizes: Sizes) -> Tensor:
    tiny.seed(0)
    return tiny.outputs(noah.build(tiny.model("vit"), sizes, dropout=0.0).eval(), "vit")


@pytest.mark.parametrize("sizes", [
    Sizes((3, 1), (0, 4), (2, 0)), Sizes((1, 5), (5, 1), (2, 3)), Sizes(NONE, (5, 0), NONE),
])  # fmt: skip
def test_counts_are_those_of_the_search_whatever_the_order_of_the_layers(sizes: Sizes) -> None:
    d = 12
    model = noah.build(tiny.model("vit"), sizes)
    assert _trained(model) == noah.numbers(sizes, d)
    turned = Sizes(*(one[::-1] for one in sizes))
    assert noah.numbers(turned, d) == noah.numbers(sizes, d)
    assert not torch.allclose(_outputs(sizes), _outputs(turned))


@torch.no_grad()
def test_the_joint_lora_is_a_change_of_the_three_weights() -> None:
    tiny.seed(0)
    model = noah.build(tiny.model("vit"), Sizes(NONE, (3, 2), NONE)).eval()
    loras = [child for child in kit.attached(model, "noah") if isinstance(child, noah.JointLoRA)]
    changed = tiny.model("vit")
    for block, lora in zip(kit.blocks(changed, "attention"), loras, strict=True):
        for role, rows in zip(("attn.q", "attn.k", "attn.v"), lora.B.chunk(3), strict=True):
            block.sites[role].weight.add_(rows @ lora.A)
    assert torch.allclose(tiny.outputs(model, "vit"), tiny.outputs(changed, "vit"), atol=tiny.TOLERANCE)
    assert not torch.allclose(tiny.outputs(model, "vit"), tiny.outputs(tiny.plain("vit"), "vit"), atol=1e-3)


@torch.no_grad()
def test_a_prompt_replaces_the_one_before_and_lasts_until_the_next() -> None:
    seen: list[int] = []
    for prompts, lengths in (((3, 1), [3, 1]), ((3, 0), [3, 3]), ((0, 2), [0, 2])):
        model = noah.build(tiny.model("vit"), Sizes(prompts, NONE, NONE), dropout=0.0).eval()
        pixels = tiny.batch("vit")["pixel_values"]                  # patches of 4 by 4
        n = pixels.shape[-1] // 4
        seen.clear()
        for layer in kit.blocks(model, "layer"):
            layer.module.register_forward_hook(lambda _, args, __: seen.append(args[0].shape[1]))
        tiny.outputs(model, "vit")
        assert seen == [n * n + 1 + length for length in lengths]
        states = model.get_submodule("vit")(pixel_values=pixels)
        assert states.last_hidden_state.shape[1] == n * n + 1


def test_the_search_stays_below_its_limit_and_finds_what_scores_best() -> None:
    d, limit, tried = 12, 900, list[Sizes]()

    def score(sizes: Sizes) -> float:                               # LoRAs are worth most, prompts cost a little
        tried.append(sizes)
        return 2.0 * sum(sizes.ranks) + sum(sizes.widths) - 0.5 * sum(sizes.prompts)

    found = noah.search(
        score, lambda sizes: noah.numbers(sizes, d), choices=(1, 5), depths=(1, 2), layers=2, limit=limit, rounds=10
    )
    assert max(noah.numbers(sizes, d) for sizes in tried) <= limit
    assert len(tried) == len(set(tried)), "nothing is tried twice"
    assert all(0 not in one[: one.index(0) if 0 in one else 2] for sizes in tried for one in sizes)
    every = [
        Sizes(p, r, w) for p in _lists() for r in _lists() for w in _lists() if noah.numbers(Sizes(p, r, w), d) <= limit
    ]
    assert score(found) == max(map(score, every))


def _lists() -> list[tuple[int, ...]]:
    return [(a, b) for a in (1, 5) for b in (0, 1, 5)]


def test_wrong_numbers_of_sizes_and_models_of_text_are_refused() -> None:
    with pytest.raises(UsageError, match="found 1 and 2 and 2 sizes; expected 2 of each"):
        noah.build(tiny.model("vit"), Sizes((1,), NONE, NONE))
    with pytest.raises(UsageError, match="a model of images alone was expected"):
        noah.apply(tiny.model("bert"))
