"""aLoRA: before the invocation the base model, keys and values included; from it on the adapted one."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import alora

pytestmark = pytest.mark.torch
IDS = torch.tensor([[9, 5, 6, 11, 5, 6, 12, 13], [7, 8, 9, 10, 11, 12, 13, 14]])


def logits(model: torch.nn.Module, **given: object) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(**given).logits
    return found


def adapted() -> torch.nn.Module:
    model = alora.apply(tiny.model("llama"), r=2, alpha=2.0, dropout=0.0)
    shake(model)
    return alora.invoke(model, [5, 6])


def test_where_it_starts() -> None:
    found = alora.started(IDS, torch.tensor([5, 6]))
    assert found.tolist() == [[False] * 4 + [True] * 4, [False] * 8]
    assert not alora.started(IDS[:, :1], torch.tensor([5, 6])).any()


def test_before_the_invocation_it_is_the_base_model_and_after_it_is_not() -> None:
    base, ours = logits(tiny.plain("llama"), input_ids=IDS), logits(adapted(), input_ids=IDS)
    assert torch.equal(ours[0, :4], base[0, :4])
    assert torch.equal(ours[1], base[1]), "no invocation, no change"
    assert ((ours[0, 4:] - base[0, 4:]).abs().amax(-1) > 1e-3).all()


def test_the_cache_of_the_base_model_serves_it() -> None:
    model = adapted()
    whole = logits(model, input_ids=IDS[:1])
    with torch.no_grad():
        cache = tiny.model("llama")(input_ids=IDS[:1, :4], use_cache=True).cache
    model.alora.active = None
    first = logits(model, input_ids=IDS[:1, 4:6], cache=cache, use_cache=True)
    rest = logits(model, input_ids=IDS[:1, 6:], cache=cache, use_cache=True)
    assert torch.allclose(torch.cat([first, rest], 1), whole[:, 4:], atol=tiny.TOLERANCE)
