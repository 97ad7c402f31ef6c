"""MoLoRA: a token uses all experts at once; a router that is certain picks one, which is then a plain LoRA."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import lora, molora

pytestmark = pytest.mark.torch


def _mixture(experts: int = 3) -> molora.MoLoRA:
    torch.manual_seed(0)
    model = molora.apply(tiny.model("llama"), r=2, alpha=4.0, experts=experts, targets=("attn.q",))
    shake(model)
    return next(child for _, child in kit.at_sites(model, "molora", molora.MoLoRA))


def _inputs(child: molora.MoLoRA) -> tuple[Tensor, Tensor]:
    x = torch.randn(2, 5, child.A.shape[-1]).to(child.A)
    return x, torch.zeros(2, 5, child.B.shape[1]).to(child.A)


def test_a_token_gets_the_weighted_mean_of_what_the_experts_add() -> None:
    child = _mixture()
    x, y = _inputs(child)
    each = torch.stack([child.scale * (x @ a.T @ b.T) for a, b in zip(child.A, child.B, strict=True)], -1)
    weights = child.shares(x)
    assert torch.allclose(weights.sum(-1), torch.ones(2, 5).to(x))
    assert torch.allclose(child.after(x, y), (each * weights.unsqueeze(-2)).sum(-1))


def test_no_lora_of_any_rank_does_the_same() -> None:
    """The mixture is not linear in the token: twice the token does not get twice the correction."""
    child = _mixture()
    x, y = _inputs(child)
    assert not torch.allclose(child.after(2 * x, y), 2 * child.after(x, y), atol=1e-3)


def test_a_certain_router_leaves_one_lora() -> None:
    child = _mixture()
    x, y = _inputs(child)
    x = x.abs()
    child.G.data.zero_()
    child.G.data[1] = 1e4
    one = lora.LoRA(child.A.shape[-1], child.B.shape[1], r=2, alpha=4.0, dropout=0.0)
    one.A.data, one.B.data = child.A.data[1], child.B.data[1]
    assert torch.allclose(child.after(x, y), one.after(x, y))
