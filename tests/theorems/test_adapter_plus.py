"""Adapter+: it reads the layer's output, one factor scales each channel, and training drops it for whole images."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from peftonomy import UsageError
from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import adapter_plus

pytestmark = pytest.mark.torch


def _made(drop_path: float = 0.0) -> tuple[nn.Module, nn.Module, adapter_plus.Adapter, Tensor]:
    """Return a plain first layer, the same layer with an adapter, the adapter, and an input."""
    model = adapter_plus.apply(tiny.model("vit"), bottleneck=5, drop_path=drop_path)
    shake(model)
    plain, layer = (kit.blocks(one, "layer")[0].module for one in (tiny.plain("vit"), model))
    [adapter] = kit.attached(layer, "adapter_plus")
    assert isinstance(adapter, adapter_plus.Adapter)
    x = torch.randn(6, 10, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return plain, layer, adapter, x


@torch.no_grad()
def test_its_change_is_a_function_of_the_layers_output() -> None:
    """An adapter on the feed-forward block's output or input would not see the residual sum."""
    plain, layer, adapter, x = _made()
    y = plain(x)
    z = nn.functional.gelu(y @ adapter.W_down.T + adapter.b_down)
    assert torch.allclose(layer(x), y + (z @ adapter.W_up.T + adapter.b_up) * adapter.s)


@torch.no_grad()
def test_a_factor_scales_its_channel_alone_and_folds_into_the_last_matrix() -> None:
    plain, layer, adapter, x = _made()
    y, before = plain(x), layer(x)
    adapter.s[3] *= -2
    after = layer(x)
    changed = torch.arange(12) == 3
    assert torch.allclose((after - y)[..., changed], -2 * (before - y)[..., changed])
    assert torch.equal(after[..., ~changed], before[..., ~changed])
    adapter.W_up *= adapter.s[:, None]
    adapter.b_up *= adapter.s
    adapter.s.fill_(1)
    assert torch.allclose(layer(x), after)


@torch.no_grad()
def test_training_drops_the_change_of_whole_images() -> None:
    plain, layer, adapter, x = _made(drop_path=0.25)
    y, change = plain(x), layer(x) - plain(x)
    tiny.seed(0)
    adapter.train()
    kept = [(layer(x) - y)[i] for _ in range(4) for i in range(6)]
    whole = [torch.allclose(found, change[i % 6] / 0.75) for i, found in enumerate(kept)]
    none = [not found.any() for found in kept]
    assert all(a != b for a, b in zip(whole, none, strict=True))
    assert any(whole)
    assert any(none)


def test_other_models_are_refused() -> None:
    with pytest.raises(UsageError, match="a model of images alone was expected"):
        adapter_plus.apply(tiny.model("bert"))
