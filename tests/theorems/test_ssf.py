"""SSF: merged, it stretches every row of every linear module, norm and patch filter, and rotates none of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from peftonomy import UsageError
from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import ssf

pytestmark = pytest.mark.torch


def test_merging_stretches_the_rows_of_every_module() -> None:
    model = ssf.apply(tiny.model("vit"))
    shake(model)
    ssf.merge(model)
    before = dict(tiny.plain("vit").named_parameters())
    alone = set()
    for name, parameter in model.named_parameters():
        after = parameter.detach()
        if torch.equal(after, before[name]):
            alone.add(name)
        elif name.endswith("weight"):
            a, b = after.reshape(len(after), -1), before[name].detach().reshape(len(after), -1)
            cosines = nn.functional.cosine_similarity(a, b).abs()
            assert torch.allclose(cosines, torch.ones_like(cosines)), name
            assert float((a.norm(dim=1) / b.norm(dim=1)).std()) > 0.05, f"{name}: each row has a factor of its own"
    assert alone == {"vit.embeddings.cls_token", "vit.embeddings.position_embeddings", "classifier.weight",
                     "classifier.bias"}  # fmt: skip


def test_a_module_without_a_bias_is_refused() -> None:
    model = tiny.model("vit")
    [query, *_] = kit.sites(model, ("attn.q",))
    assert isinstance(query.module, nn.Linear)
    query.module.bias = None
    with pytest.raises(UsageError, match="found no bias"):
        ssf.apply(model)
    with pytest.raises(UsageError, match="a model of images alone was expected"):
        ssf.apply(tiny.model("bert"))
