"""Intruder-dimension reduction: an intruder keeps a share of its singular value, and all else stays; as in peft."""

from __future__ import annotations

from typing import Any

import peft
import pytest
import torch
from peft.tuners.lora import intruders

from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import intruder_reduction as reduction
from tests.oracles import layer

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")]


def child(**settings: Any) -> reduction.Reduced:
    given = {"r": 1, "alpha": 2.0, "top_k": 3, "threshold": 0.5, "kept": 0.75}
    return reduction.Reduced(6, 8, **{**given, **settings}).double()


def intruded() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A weight with two outputs that it never uses, and an adapter that writes strongly to one of them."""
    weight = torch.zeros(8, 6).double()
    weight[:6] = torch.diag(torch.arange(6.0, 0.0, -1.0).double())
    a, b = torch.zeros(1, 6).double(), torch.zeros(8, 1).double()
    a[0, 5], b[7, 0] = 1.0, 5.0
    return weight, a, b


def test_an_intruder_keeps_a_share_and_the_rest_stays() -> None:
    weight, a, b = intruded()
    found = child()
    changed = weight + 2 * b @ a
    u, s, v = torch.linalg.svd(changed, full_matrices=False)
    assert u[7, 0].abs() > 0.9, "the adapter's direction leads"
    found.reduce(weight, a, b)
    wanted = 2 * b @ a - 0.25 * s[0] * u[:, :1] @ v[:1]
    # of rank two: the reduced output of the intruder, and what it took along from the weight's own
    left, values, right = torch.linalg.svd(wanted, full_matrices=False)
    assert torch.allclose(found.delta(), values[0] * left[:, :1] @ right[:1])
    assert found.delta().norm() < (2 * b @ a).norm()


def test_an_adapter_along_the_weights_own_directions_stays() -> None:
    weight, a, b = intruded()
    b = b.roll(-2, 0)                                               # to an output that the weight uses
    found = child()
    found.reduce(weight, a, b)
    assert torch.equal(found.A, a)
    assert torch.equal(found.B, b)
    found = child(top_k=1, threshold=2.0)
    found.reduce(weight, a, b)
    assert not torch.allclose(found.delta(), 2 * b @ a), "a threshold above one takes everything for an intruder"


def test_peft_reduces_to_the_same_product() -> None:
    config = peft.LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    torch.manual_seed(0)
    theirs: Any = peft.get_peft_model(tiny.model("llama").float(), config)
    model = reduction.apply(tiny.model("llama"), r=2, alpha=4.0, top_k=4, threshold=0.6, targets=("attn.q", "attn.v"))
    given = {}
    for site, one in kit.at_sites(model, "intruder_reduction", reduction.Reduced):
        pair = layer(theirs, site)
        path = f"{site.path}.lora{one.attached.removeprefix('intruder_reduction')}"
        given[f"{path}.A"] = pair.lora_A["default"].weight.detach()
        given[f"{path}.B"] = pair.lora_B["default"].weight.detach()
    before = {name: value.clone() for name, value in given.items()}
    reduce: Any = intruders.reduce_intruder_dimension
    reduce(theirs, top_k=4, threshold_epsilon=0.6, logging_sink=None)
    reduction.combine(model, [given])
    changed = 0
    for site, one in kit.at_sites(model, "intruder_reduction", reduction.Reduced):
        pair = layer(theirs, site)
        product = pair.lora_B["intruder_reduced"].weight @ pair.lora_A["intruder_reduced"].weight
        assert torch.allclose(product.double(), one.B @ one.A, atol=1e-5)
        path = f"{site.path}.lora{one.attached.removeprefix('intruder_reduction')}"
        changed += not torch.allclose(one.B @ one.A, (before[f"{path}.B"] @ before[f"{path}.A"]).double(), atol=1e-3)
    assert changed, "at least one weight has an intruder"
