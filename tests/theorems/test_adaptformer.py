"""AdaptFormer: its correction grows with the layer's state; that of a parallel adapter behind the norm does not."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from peftonomy import UsageError
from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import adaptformer, parallel_adapter

pytestmark = pytest.mark.torch


def _corrections(module: ModuleType, x: Tensor) -> list[Tensor]:
    """Return what an adapter without biases adds to a layer's output for x, and for 3 x. Attention adds nothing."""
    model = tiny.model("vit")
    layer = kit.blocks(model, "layer")[0].module
    with torch.no_grad():
        for site in kit.sites(model, ["attn.o"]):
            site.module.weight.zero_()
            site.module.bias.zero_()
        plain = [layer.eval()(scale * x) for scale in (1, 3)]
        module.apply(model, bottleneck=5, scale=1.0)
        shake(model)
        for name, parameter in model.named_parameters():
            if name.endswith((f"{module.__name__.rpartition('.')[2]}.b_down", ".b_up")):
                parameter.zero_()
        return [layer.eval()(scale * x) - y for scale, y in zip((1, 3), plain, strict=True)]


def test_the_input_is_taken_before_the_norm() -> None:
    x = torch.randn(2, 10, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    one, three = _corrections(adaptformer, x)
    assert torch.allclose(three, 3 * one)
    one, three = _corrections(parallel_adapter, x)
    assert torch.allclose(three, one, atol=1e-6)
    assert float(one.abs().max()) > 0.01


def test_a_model_of_text_is_refused() -> None:
    with pytest.raises(UsageError, match="a model of images alone was expected"):
        adaptformer.apply(tiny.model("bert"))
    assert isinstance(adaptformer.apply(tiny.model("vit")), nn.Module)
