"""Arrow: the directions are singular vectors, and tokens go where they point; peft mixes the same way."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft.tuners.lora.arrow import ArrowLoraLinearLayer
from peft.tuners.lora.config import ArrowConfig

from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import arrow, lora

pytestmark = pytest.mark.torch


def experts(top_k: int, temperature: float = 0.5) -> arrow.Experts:
    torch.manual_seed(0)
    return arrow.Experts(9, 7, n_experts=4, r=3, alpha=6.0, top_k=top_k, temperature=temperature).double()


def test_directions_are_the_first_right_singular_vectors() -> None:
    child = experts(1)
    wanted = torch.linalg.svd(child.B @ child.A).Vh[:, 0]
    assert torch.allclose(child.directions().abs(), wanted.abs())
    stretched = (child.B @ child.A @ child.directions()[..., None]).squeeze(-1)
    assert torch.allclose(stretched.norm(dim=1), torch.linalg.matrix_norm(child.B @ child.A, 2))


def test_a_token_along_a_direction_goes_to_its_expert_whatever_its_sign() -> None:
    child = experts(1)
    child.p.copy_(child.directions())
    shares = child.shares(torch.cat([child.p, -child.p]))
    assert torch.equal(shares, torch.eye(4).double().repeat(2, 1))


def test_one_expert_is_its_lora() -> None:
    targets = ("attn.q", "attn.v")
    expert = lora.apply(tiny.model("llama"), r=2, alpha=3.0, targets=targets)
    shake(expert)
    ours = arrow.load(arrow.apply(tiny.model("llama"), n_experts=1, r=2, top_k=1, targets=targets), 0, expert)
    with torch.no_grad():
        assert torch.allclose(tiny.outputs(ours, "llama"), tiny.outputs(expert, "llama"), atol=tiny.TOLERANCE)
    for _, child in kit.at_sites(ours, "arrow", arrow.Experts):
        assert torch.allclose(child.p, child.directions())


def test_peft_mixes_the_same_way() -> None:
    child = experts(2)
    child.p.copy_(child.directions())
    config = ArrowConfig(top_k=2, router_temperature=0.5)
    names = [f"task_{i}" for i in range(4)]
    config.task_adapter_names, config.gks_adapter_names = names, []
    theirs: Any = ArrowLoraLinearLayer(9, config)  # type: ignore[no-untyped-call]
    factors = []
    for weights in (child.A, child.B):
        linears = {name: torch.nn.Linear(weights.shape[2], weights.shape[1], bias=False) for name in names}
        for linear, weight in zip(linears.values(), weights, strict=True):
            linear.weight.data = weight.data
        factors.append(torch.nn.ModuleDict(linears))
    theirs.register_buffer("prototypes", child.p)       # its power iteration is not run to the end
    x = torch.randn(2, 5, 9).double()
    with torch.no_grad():
        found = theirs(x, *factors, torch.nn.Identity(), dict.fromkeys(names, child.scale))
        assert torch.allclose(child.after(x, torch.zeros(2, 5, 7).double()), found)
