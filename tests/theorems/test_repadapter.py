"""RepAdapter: it is one change of the input that all projections of a block share, so it folds into each of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from peftonomy import UsageError
from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import repadapter

pytestmark = pytest.mark.torch


def test_the_projections_of_an_attention_share_one_low_rank_change() -> None:
    model = repadapter.apply(tiny.model("vit"), bottleneck=4, scale=0.7, dropout=0.0)
    shake(model)
    [child, *_] = kit.attached(model, "repadapter")
    assert isinstance(child, repadapter.RepAdapter)
    change, _ = child.folded("attn")
    assert int(torch.linalg.matrix_rank(change)) == 4
    before = {site.path: site.weight.clone() for site in kit.sites(tiny.model("vit"), ("attn.*", "mlp.*"))}
    layer = kit.blocks(repadapter.merge(model), "layer")[0]
    for role, site in layer.sites.items():
        block = {"attn.o": None, "mlp.down": None}.get(role, role.partition(".")[0])
        wanted = before[site.path]
        if block is not None:
            wanted = wanted + wanted @ child.folded(block)[0]
        assert torch.allclose(site.weight, wanted), role


def test_a_projection_without_a_bias_is_refused() -> None:
    model = tiny.model("vit")
    [query, *_] = kit.sites(model, ("attn.q",))
    assert isinstance(query.module, nn.Linear)
    query.module.bias = None
    with pytest.raises(UsageError, match="found no bias"):
        repadapter.apply(model)
