"""DePT: every position has its own update, of low rank, which starts at zero and goes on when a decoder generates."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from peftonomy import UsageError
from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import dept, prompt_tuning

pytestmark = pytest.mark.torch
IDS = torch.tensor([[3, 4, 5, 6, 3], [9, 8, 7, 0, 2]])


def _applied(kind: str, **more: Any) -> tuple[nn.Module, dept.Decomposed]:
    torch.manual_seed(0)
    model = dept.apply(tiny.model(kind), **{"prompt_length": 2, "r": 2, "max_length": 7, **more}).eval()
    [child] = kit.attached(model, "dept")
    assert isinstance(child, dept.Decomposed)
    return model, child


def _prompted(kind: str, p: Tensor, x: Tensor) -> Tensor:
    """Prompt tuning on an embedded input."""
    plain = prompt_tuning.apply(tiny.model(kind), prompt_length=len(p)).eval()
    plain.get_parameter("prompt_tuning.P").data.copy_(p)
    return plain(inputs_embeds=x).logits                # type: ignore[no-any-return]


@pytest.mark.parametrize("length", [3, 5, 7])
def test_it_is_prompt_tuning_on_an_updated_input(length: int) -> None:
    model, child = _applied("llama", max_length=length)
    x = tiny.plain("llama").get_input_embeddings()(IDS)             # type: ignore[operator]
    assert torch.allclose(model(input_ids=IDS).logits, _prompted("llama", child.P, x)), "no update at the start"
    child.B.data.normal_()
    update = 8 / 2**0.5 * child.A @ child.B                         # (length, d)
    assert torch.linalg.matrix_rank(update) == 2
    n = min(length, 5)
    moved = torch.cat([x[:, :n] + update[:n], x[:, n:]], dim=1)
    assert torch.allclose(model(input_ids=IDS).logits, _prompted("llama", child.P, moved))
    assert torch.allclose(model(inputs_embeds=x).logits, _prompted("llama", child.P, moved))


def test_generated_tokens_get_the_next_rows() -> None:
    model, child = _applied("llama")
    child.B.data.normal_()
    whole = model(input_ids=IDS).logits
    begun = model(input_ids=IDS[:, :3], use_cache=True)
    rest = model(input_ids=IDS[:, 3:], cache=begun.cache, use_cache=True)
    assert torch.allclose(torch.cat([begun.logits, rest.logits], dim=1), whole)


def test_the_decoder_of_an_encoder_decoder_has_no_update() -> None:
    model, child = _applied("t5")
    child.B.data.normal_()
    wanted = model(input_ids=IDS, decoder_input_ids=IDS[:, :2]).logits
    embedded = model.get_input_embeddings()(IDS)                    # type: ignore[operator]
    given = model(inputs_embeds=embedded, decoder_input_ids=IDS[:, :2]).logits
    assert torch.allclose(given, wanted)
    plain = prompt_tuning.apply(tiny.model("t5"), prompt_length=2).eval()
    plain.get_parameter("prompt_tuning.P").data.copy_(child.P)
    moved = plain(inputs_embeds=child.updated(embedded), decoder_input_ids=IDS[:, :2]).logits
    assert torch.allclose(moved, wanted)


def test_the_matrices_have_a_rate_of_their_own() -> None:
    model, child = _applied("bert", lr_ratio=0.25)
    rates = {id(p): group["lr"] for group in dept.parameter_groups(model, 0.4) for p in group["params"]}
    assert [rates[id(p)] for p in (child.P, child.A, child.B)] == [0.4, 0.1, 0.1]


def test_a_model_without_a_vocabulary_is_refused() -> None:
    with pytest.raises(UsageError, match="a model with a vocabulary was expected"):
        dept.apply(tiny.model("vit"))
