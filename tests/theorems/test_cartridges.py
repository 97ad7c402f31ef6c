"""Cartridges: a cartridge filled from a text is that text, before any training."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import cartridges

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("n_frozen", [0, 2])
def test_a_filled_cartridge_is_the_text_itself(family: str, n_frozen: int) -> None:
    text, question = torch.arange(3, 8)[None], torch.arange(20, 24)[None]
    plain = tiny.model(family)
    ours = cartridges.apply(tiny.model(family), prefix_length=5, n_frozen=n_frozen)
    with torch.no_grad():
        cartridges.prefill(ours, plain(text, use_cache=True).past_key_values)
        wanted = plain(torch.cat([text, question], dim=1)).logits[:, 5:]
        found = ours(question, position_ids=torch.arange(5, 9)[None]).logits
        without = plain(question).logits
    assert (found - wanted).abs().max() < tiny.TOLERANCE
    assert (found - without).abs().max() > 0.05


def test_the_first_positions_stay() -> None:
    model = cartridges.apply(tiny.model("llama"), prefix_length=3, n_frozen=1)
    frozen = {name for child in kit.attached(model, "cartridges")
              for name, p in child.named_parameters() if not p.requires_grad}  # fmt: skip
    assert frozen == {"S_k", "S_v"}
