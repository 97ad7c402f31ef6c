"""ADePT: a token's update depends on the token alone, wherever it stands and however long the input is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from peftonomy import UsageError
from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import adept, prompt_tuning

pytestmark = pytest.mark.torch
IDS = torch.tensor([[3, 4, 5, 4, 3], [9, 8, 7, 3, 2]])


def _applied(kind: str, **more: Any) -> tuple[nn.Module, adept.Adaptive]:
    """A model with a network that is not zero any more."""
    torch.manual_seed(0)
    model = adept.apply(tiny.model(kind), **{"prompt_length": 2, "r": 3, **more}).eval()
    [child] = kit.attached(model, "adept")
    assert isinstance(child, adept.Adaptive)
    for name in ("b_down", "W_up", "b_up"):
        child.get_parameter(name).data.normal_()
    return model, child


def _prompted(kind: str, p: Tensor) -> Any:
    plain = prompt_tuning.apply(tiny.model(kind), prompt_length=len(p)).eval()
    plain.get_parameter("prompt_tuning.P").data.copy_(p)
    return plain


def test_it_is_prompt_tuning_with_another_embedding_of_each_token() -> None:
    model, child = _applied("llama")
    table = tiny.plain("llama").get_input_embeddings().weight       # type: ignore[operator]
    moved = child.moved(table)                                      # one update for each token of the vocabulary
    assert torch.allclose(model(input_ids=IDS).logits, _prompted("llama", child.P)(inputs_embeds=moved[IDS]).logits)
    for name in ("W_up", "b_up"):
        child.get_parameter(name).data.zero_()
    assert torch.allclose(model(input_ids=IDS).logits, _prompted("llama", child.P)(input_ids=IDS).logits)


def test_embedded_inputs_are_moved_too() -> None:
    model, _ = _applied("llama")
    x = tiny.plain("llama").get_input_embeddings()(IDS)             # type: ignore[operator]
    assert torch.allclose(model(inputs_embeds=x).logits, model(input_ids=IDS).logits)


@pytest.mark.parametrize("embedded", [False, True])
def test_generated_tokens_are_moved_too(embedded: bool) -> None:
    model, _ = _applied("llama")
    x = tiny.plain("llama").get_input_embeddings()(IDS)             # type: ignore[operator]
    name, given = ("inputs_embeds", x) if embedded else ("input_ids", IDS)
    begun = model(**{name: given[:, :3]}, use_cache=True)
    rest = model(**{name: given[:, 3:]}, cache=begun.cache, use_cache=True)
    assert torch.allclose(torch.cat([begun.logits, rest.logits], dim=1), model(input_ids=IDS).logits)


def test_the_decoder_of_an_encoder_decoder_has_no_update() -> None:
    model, child = _applied("t5")
    wanted = model(input_ids=IDS, decoder_input_ids=IDS[:, :2]).logits
    embedded = child.moved(tiny.plain("t5").get_input_embeddings()(IDS))            # type: ignore[operator]
    found = _prompted("t5", child.P)(inputs_embeds=embedded, decoder_input_ids=IDS[:, :2]).logits
    assert torch.allclose(found, wanted)


def test_the_network_has_a_rate_of_its_own() -> None:
    model, child = _applied("bert", lr_ratio=0.25)
    rates = {id(p): group["lr"] for group in adept.parameter_groups(model, 0.4) for p in group["params"]}
    assert [rates[id(p)] for p in (child.P, child.W_down, child.b_down, child.W_up, child.b_up)] == [0.4] + 4 * [0.1]


def test_a_model_without_a_vocabulary_is_refused() -> None:
    with pytest.raises(UsageError, match="a model with a vocabulary was expected"):
        adept.apply(tiny.model("vit"))
