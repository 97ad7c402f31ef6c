"""WARP: what the class scores are, computed without hooks."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from torch import Tensor

from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import warp

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("read_at", [0, 3])
def test_scores_compare_the_state_at_the_mask_with_the_classes(read_at: int) -> None:
    model = warp.apply(tiny.model("llama"), prompt_length=3, n_classes=4, read_at=read_at)
    shake(model)
    [child] = kit.attached(model, "warp")
    assert isinstance(child, warp.WARP)
    plain = cast(Any, tiny.model("llama")).base_model
    batch = tiny.batch("llama")
    embedded = torch.cat([child.P.expand(4, -1, -1), plain.embed_tokens(batch["input_ids"])], dim=1)
    mask = torch.cat([torch.ones(4, 3, dtype=torch.long), batch["attention_mask"]], dim=1)
    states: Tensor = plain(inputs_embeds=embedded, attention_mask=mask).last_hidden_state
    wanted = states[:, 3 + read_at] @ child.V.T + child.b
    found = tiny.outputs(model, "llama")
    assert found.shape == (4, 4)
    assert torch.allclose(found, wanted, atol=tiny.TOLERANCE)
    elsewhere = states[:, 2 + read_at] @ child.V.T + child.b
    assert not torch.allclose(found, elsewhere, atol=1e-2)
