"""CoOp: a context can say any words, and one of its own for each class moves the scores of this class only."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from peftonomy import UsageError
from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import coop

pytestmark = pytest.mark.torch


def _scores(**setting: object) -> tuple[Tensor, Tensor]:
    """Return the scores with a context, and those after the context of class 1 (or of all) has changed."""
    model = coop.apply(tiny.model("clip"), prompt_length=2, **setting)  # type: ignore[arg-type]
    [child] = kit.attached(model, "coop")
    with torch.no_grad():
        before = tiny.outputs(model, "clip")
        context = next(child.parameters())
        chosen = context[1] if context.dim() == 3 else context
        chosen.normal_(generator=torch.Generator().manual_seed(0))
        return before, tiny.outputs(model, "clip")


def test_a_context_of_embedded_words_is_that_text() -> None:
    words = torch.tensor([5, 9, 20])
    model, plain = coop.apply(tiny.model("clip"), prompt_length=3), tiny.plain("clip")
    [child] = kit.attached(model, "coop")
    given = dict(tiny.batch("clip"))
    with torch.no_grad():
        child.get_parameter("P").copy_(plain.get_parameter("text_model.embeddings.token_embedding.weight")[words])
        found = model(**given).logits_per_image
        ids, mask = given["input_ids"], given["attention_mask"]
        given["input_ids"] = torch.cat([ids[:, :1], words.expand(len(ids), -1), ids[:, 1:]], 1)
        given["attention_mask"] = torch.cat([mask[:, :1].expand(-1, 4), mask[:, 1:]], 1)
        assert torch.allclose(found, plain(**given).logits_per_image, atol=1e-9)


def test_a_context_of_its_own_moves_its_class_alone() -> None:
    before, after = _scores(class_specific=True)
    moved = (after - before).abs().amax(0)
    assert float(moved[1]) > 1e-3
    assert float(moved[[0, 2]].max()) < 1e-9
    before, after = _scores()
    assert float((after - before).abs().amax(0).min()) > 1e-3


def test_other_models_and_other_numbers_of_texts_are_refused() -> None:
    for family in ("bert", "vit", "t5"):
        with pytest.raises(UsageError, match="a model that compares images with texts was expected"):
            coop.apply(tiny.model(family))
    model = coop.apply(tiny.model("clip"), prompt_length=2, class_specific=True)
    given = tiny.batch("clip") | {name: tiny.batch("clip")[name][:2] for name in ("input_ids", "attention_mask")}
    with pytest.raises(UsageError, match="texts: found 2; expected 3"):
        model(**given)
