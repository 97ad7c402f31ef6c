"""ShareLoRA: a LoRA whose layers agree on a factor, so that all corrections together span no more than its rank."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import lora, sharelora

pytestmark = pytest.mark.torch
TARGETS = ("attn.q", "mlp.down")


@pytest.mark.parametrize("share", ["first", "second", "both"])
def test_it_is_a_lora_with_equal_factors(share: str) -> None:
    model = sharelora.apply(tiny.model("llama"), r=2, alpha=6.0, dropout=0.0, share=share, targets=TARGETS)
    shake(model)
    plain = lora.apply(tiny.model("llama"), r=2, alpha=6.0, targets=TARGETS)
    ours = kit.at_sites(model, "sharelora", sharelora.ShareLoRA)
    for (_, child), (_, pair) in zip(ours, kit.at_sites(plain, "lora", lora.LoRA), strict=True):
        pair.A.data, pair.B.data = child.factor("A").data, child.factor("B").data
    assert torch.allclose(tiny.loss(model, "llama"), tiny.loss(plain, "llama"))


@pytest.mark.parametrize(("share", "rows", "columns"), [("first", 4, 2), ("second", 2, 4), ("both", 2, 2)])
def test_the_corrections_of_all_layers_have_one_row_space_or_one_column_space(
    share: str, rows: int, columns: int
) -> None:
    model = sharelora.apply(tiny.model("llama"), r=2, dropout=0.0, share=share, targets=("attn.q",))
    shake(model)
    changes = [child.delta() for _, child in kit.at_sites(model, "sharelora", sharelora.ShareLoRA)]
    assert len(changes) == 2
    assert torch.linalg.matrix_rank(torch.cat(changes, dim=1)) == rows
    assert torch.linalg.matrix_rank(torch.cat(changes)) == columns
    assert torch.equal(*changes) == (share == "both")
