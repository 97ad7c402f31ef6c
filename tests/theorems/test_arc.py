"""ARC: all layers change their inputs within the span of one matrix, and each change is a symmetric matrix."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from peftonomy import UsageError
from peftonomy.conformance import tiny
from peftonomy.conformance.trial import shake
from reference_impls import _kit as kit
from reference_impls import arc

pytestmark = pytest.mark.torch


def test_all_layers_share_the_directions_of_symmetric_changes() -> None:
    model = arc.apply(tiny.model("vit"), bottleneck=2, dropout=0.0)
    shake(model)
    before = {site.path: site.weight.clone() for site in kit.sites(model, ("attn.q", "mlp.up"))}
    arc.merge(model)
    for role in ("attn.q", "mlp.up"):
        changes: list[Tensor] = []
        for site in kit.sites(model, (role,)):
            old = before[site.path]
            # the weight is old (I + change); its left inverse gives the change, as there are at least as many outputs
            changes.append(torch.linalg.lstsq(old, site.weight - old).solution)
        assert len(changes) == 2
        for change in changes:
            assert torch.allclose(change, change.T, atol=1e-9), "a symmetric matrix"
            assert int(torch.linalg.matrix_rank(change, rtol=1e-9)) == 2
        assert not torch.allclose(changes[0], changes[1], atol=1e-3), "each layer has its own"
        assert int(torch.linalg.matrix_rank(torch.cat(changes), rtol=1e-9)) == 2, "within the same two directions"


def test_a_model_of_text_is_refused() -> None:
    with pytest.raises(UsageError, match="a model of images alone was expected"):
        arc.apply(tiny.model("bert"))
