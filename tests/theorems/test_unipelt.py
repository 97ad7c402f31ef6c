"""UniPELT: each part acts through its gate, and the gate looks at the text."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, TypeVar

import pytest
import torch
from torch import nn

from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import lora, prefix_tuning, unipelt

pytestmark = pytest.mark.torch
Part = TypeVar("Part", bound=nn.Module)


def parts(model: nn.Module, kind: type[Part]) -> Iterator[Part]:
    return (child for child in kit.attached(model, "unipelt") if isinstance(child, kind))


def constant(gate: nn.Linear, value: float) -> None:
    """Make a gate say the same to every text."""
    nn.init.zeros_(gate.weight)
    nn.init.constant_(gate.bias, math.log(value / (1 - value)))


def adapted(family: str, *, through_lora: float, through_prefix: float, through_adapter: float) -> nn.Module:
    torch.manual_seed(0)
    model = unipelt.apply(tiny.model(family), r=2, prefix_length=3, use_mlp=False, bottleneck=4)
    shake(model)
    for correction in parts(model, unipelt.GatedLoRA):
        constant(correction.gate_lora, through_lora)
    for prefix in parts(model, unipelt.GatedPrefix):
        constant(prefix.gate_prefix, through_prefix)
    for adapter in parts(model, unipelt.GatedAdapter):
        constant(adapter.gate_adapter, through_adapter)
    return model


CLOSED, OPEN = 1e-14, 1 - 1e-14


@pytest.mark.parametrize("family", ["bert", "t5", "llama"])
def test_with_the_others_closed_it_is_prefix_tuning_with_scaled_prefixes(family: str) -> None:
    model = adapted(family, through_lora=CLOSED, through_prefix=0.3, through_adapter=CLOSED)
    single = prefix_tuning.apply(tiny.model(family), prefix_length=3, use_mlp=False)
    pairs = zip(parts(model, prefix_tuning.Prefix), kit.attached(single, "prefix_tuning"), strict=True)
    for ours, theirs in pairs:
        theirs.load_state_dict({name: 0.3 * value for name, value in ours.state_dict().items()})
    assert torch.allclose(tiny.outputs(model, family), tiny.outputs(single, family), atol=tiny.TOLERANCE)


def test_with_the_others_closed_it_is_lora_with_the_gate_as_its_scale() -> None:
    model = adapted("gpt2", through_lora=0.3, through_prefix=CLOSED, through_adapter=CLOSED)
    single: Any = lora.apply(tiny.model("gpt2"), r=2, alpha=2 * 0.3, targets=("attn.q", "attn.v"))
    single = prefix_tuning.apply(single, prefix_length=3, use_mlp=False)
    pairs = zip(parts(model, unipelt.GatedLoRA), kit.attached(single, "lora"), strict=True)
    for ours, theirs in pairs:
        theirs.load_state_dict({"A": ours.A, "B": ours.B})
    for theirs in kit.attached(single, "prefix_tuning"):
        for value in theirs.parameters():  # a closed prefix leaves keys and values of zeros
            nn.init.zeros_(value)
    assert torch.allclose(tiny.outputs(model, "gpt2"), tiny.outputs(single, "gpt2"), atol=tiny.TOLERANCE)
    plain = tiny.outputs(tiny.model("gpt2"), "gpt2")
    assert not torch.allclose(tiny.outputs(model, "gpt2"), plain, atol=1e-3)


def test_a_gate_is_the_mean_of_its_tokens_and_each_text_has_its_own() -> None:
    torch.manual_seed(0)
    gate, x = nn.Linear(4, 1), torch.randn(2, 3, 4)
    for row in range(2):
        by_hand = sum(1 / (1 + math.exp(-float(gate(x[row, i]).detach()))) for i in range(3)) / 3
        assert math.isclose(float(unipelt.opened(gate, x)[row, 0, 0].detach()), by_hand, rel_tol=1e-5)
    assert abs(float((unipelt.opened(gate, x)[0] - unipelt.opened(gate, x)[1]).detach())) > 1e-3


def test_an_adapter_behind_an_open_gate_is_an_adapter() -> None:
    child, h = unipelt.GatedAdapter(6, bottleneck=4).double(), torch.randn(2, 3, 6, dtype=torch.float64)
    constant(child.gate_adapter, OPEN)
    added = torch.relu(h @ child.W_down.T + child.b_down) @ child.W_up.T + child.b_up
    assert torch.allclose(child.after(h, h), h + added)
    constant(child.gate_adapter, CLOSED)
    assert torch.allclose(child.after(h, h), h)
