"""CLIP-Adapter: it reads features that can be computed once, and never lowers one below its share."""

from __future__ import annotations

import pytest
import torch

from peftonomy import UsageError
from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import clip_adapter

pytestmark = pytest.mark.torch


def test_training_needs_features_only() -> None:
    """Neither tower is in the graph: the same loss follows from features that were computed before."""
    model = clip_adapter.apply(tiny.model("clip"), reduction=2)
    shake(model)
    [site] = kit.sites(model, ["head.image"])
    entered: list[torch.Tensor] = []
    site.module.register_forward_pre_hook(lambda _, args: entered.append(args[0]))
    scores = tiny.outputs(model, "clip")
    assert scores.requires_grad
    assert not entered[0].requires_grad
    features = site.module(entered[0])
    with torch.no_grad():
        texts = model(**tiny.batch("clip")).text_embeds
        scale = model.get_parameter("logit_scale").exp()
    assert torch.allclose(scale * features / features.norm(dim=-1, keepdim=True) @ texts.T, scores)


def test_it_only_raises_features() -> None:
    for ratio in (0.2, 0.7):
        plain, model = tiny.plain("clip"), clip_adapter.apply(tiny.model("clip"), ratio=ratio)
        shake(model)
        x = torch.randn(50, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        f, adapted = (kit.sites(m, ["head.image"])[0].module(x) for m in (plain, model))
        added = (adapted - (1 - ratio) * f).detach()
        assert float(added.min()) > -1e-12
        assert float(added.max()) > 0.1


def test_a_model_without_a_shared_space_is_refused() -> None:
    with pytest.raises(UsageError, match="head.image"):
        clip_adapter.apply(tiny.model("vit"))
