"""Gated prompt tuning: open gates are VPT's shallow form; behind a shut gate the prompt enters as if inserted there."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from peftonomy import UsageError
from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import gated_prompt_tuning, vpt

pytestmark = pytest.mark.torch
PIXELS = torch.randn(2, 3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def _logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model.eval()(pixel_values=PIXELS).logits
    return logits


def _second_input(model: nn.Module) -> Tensor:
    states: list[Tensor] = []
    handle = kit.blocks(model, "layer")[1].module.register_forward_pre_hook(lambda _, args: states.append(args[0]))
    _logits(model)
    handle.remove()
    return states[0]


def test_gates_decide_where_the_prompt_enters() -> None:
    model = gated_prompt_tuning.apply(tiny.model("vit"), prompt_length=4, gate_init=-40.0)
    shallow = vpt.apply(tiny.model("vit"), prompt_length=4)
    deep = vpt.apply(tiny.model("vit"), prompt_length=4, deep=True)
    prompt = next(child for child in kit.attached(model, "gated_prompt_tuning") if isinstance(child, vpt.Prompt))
    gates = [child for child in kit.attached(model, "gated_prompt_tuning") if hasattr(child, "g")]
    assert len(gates) == len(kit.blocks(model, "layer")) - 1
    for child in [*kit.attached(shallow, "vpt"), *kit.attached(deep, "vpt")]:
        next(child.parameters()).data.copy_(prompt.P)
    assert torch.allclose(_logits(model), _logits(shallow), atol=1e-5), "open gates"
    gates[0].get_parameter("g").data.fill_(-40.0)
    assert torch.allclose(_second_input(model)[:, 1:5], prompt.P.expand(2, -1, -1)), "a shut gate"
    assert torch.allclose(_logits(model), _logits(deep), atol=1e-5), "the same prompt, inserted behind the gate again"
    assert not torch.allclose(_logits(model), _logits(shallow), atol=1e-3)


def test_a_temperature_acts_like_a_factor_on_the_queries_and_stays_within_its_bounds() -> None:
    model = gated_prompt_tuning.apply(tiny.model("vit"), prompt_length=4)
    plain = _logits(model)
    for site, child in kit.at_sites(model, "gated_prompt_tuning", gated_prompt_tuning.Temperature):
        child.t.data.fill_(20.0)
        assert site.bias is not None
        site.weight.data.mul_(10)
        site.bias.data.mul_(10)
    assert torch.allclose(_logits(model), plain, atol=1e-5), "20 is above the largest value, 10"


def test_other_models_are_refused() -> None:
    with pytest.raises(UsageError, match="a model of images alone was expected"):
        gated_prompt_tuning.apply(tiny.model("bert"))
