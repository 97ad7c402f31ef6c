"""VPT: shallow, it is prompt tuning on images; deep, a prompt replaces what the layer before made of its own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from peftonomy import UsageError
from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import prompt_tuning, vpt

pytestmark = pytest.mark.torch


def _logits(model: nn.Module, pixels: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model.eval()(pixel_values=pixels).logits
    return logits


def test_shallow_and_deep() -> None:
    pixels = torch.randn(2, 3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    shallow = vpt.apply(tiny.model("vit"), prompt_length=4)
    [prompt] = kit.attached(shallow, "vpt")
    assert isinstance(prompt, vpt.Prompt)
    classic = prompt_tuning.apply(tiny.model("vit"), prompt_length=4)
    [other] = kit.attached(classic, "prompt_tuning")
    other.get_parameter("P").data = prompt.P.data.flip(0)       # neither place nor order counts: there is no position
    assert torch.allclose(_logits(classic, pixels), _logits(shallow, pixels), atol=1e-5)

    states: list[Tensor] = []
    second = kit.blocks(shallow, "layer")[1].module
    handle = second.register_forward_pre_hook(lambda _, args: states.append(args[0]))
    wanted = _logits(shallow, pixels[:1])
    handle.remove()
    deep = vpt.apply(tiny.model("vit"), prompt_length=4, deep=True)
    [first, later] = sorted(kit.attached(deep, "vpt"), key=lambda child: isinstance(child, vpt.DeepPrompt))
    first.get_parameter("P").data = prompt.P.data
    later.get_parameter("D").data = states[0][0, 1:5]
    assert torch.allclose(_logits(deep, pixels[:1]), wanted, atol=1e-5)
    assert not torch.allclose(_logits(deep, pixels[1:]), _logits(shallow, pixels[1:]), atol=1e-3), "any other image"


def test_other_models_are_refused() -> None:
    with pytest.raises(UsageError, match="a model of images alone was expected"):
        vpt.apply(tiny.model("bert"))
    with pytest.raises(UsageError, match="one width in all layers was expected; this model has 4 stages of layers"):
        vpt.apply(tiny.model("swin"))
