"""Kernel-mix: heads have corrections of their own, and those of the values read the keys."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from peftonomy.conformance.trial import layout
from reference_impls import _kit as kit
from reference_impls import kernel_mix

from ..knowledge import KB

pytestmark = pytest.mark.torch
RANKS: dict[str, Any] = {"q_rank": 2, "v_rank": 3, "mix": False}


def applied(family: str, **changed: int) -> nn.Module:
    torch.manual_seed(0)
    model = kernel_mix.apply(tiny.model(family), **(RANKS | changed), dropout=0.0)
    shake(model)
    return model


def children(model: nn.Module, kind: type[kernel_mix.Kernel]) -> list[tuple[kit.Site, Any]]:
    return list(kit.at_sites(model, "kernel_mix", kind))


def said(site: kit.Site, child: Any, x: Tensor) -> Tensor:
    """What the correction adds to a projection's output, its bias left out."""
    added: Tensor = child.after(x, x.new_zeros(*x.shape[:-1], site.d_out))
    return added.detach() - (0 if child.b is None else child.b.detach())


@pytest.mark.parametrize("family", ["gpt2", "llama", "t5"])
def test_heads_by_hand(family: str) -> None:
    """Every term against plain matrices, head after head."""
    model = applied(family, mix=True, q_share=2, v_share=3)
    torch.manual_seed(1)
    for site, child in children(model, kernel_mix.Kernel):
        x = torch.randn(5, site.d_in, dtype=torch.float64)
        a, b = (f.detach() for f in child.shared)
        expected = x @ a.T @ b.T
        if isinstance(child, kernel_mix.Query):
            width = site.d_out // len(child.A_q)
            for h, (down, up) in enumerate(zip(child.A_q.detach(), child.B_q.detach(), strict=True)):
                expected[:, h * width : (h + 1) * width] += x @ (up @ down).T
        if isinstance(child, kernel_mix.Value):
            keys = x @ child.key.weight.T + (0 if child.key.bias is None else child.key.bias)
            width = site.d_out // len(child.A_v)
            for h, (down, up) in enumerate(zip(child.A_v.detach(), child.B_v.detach(), strict=True)):
                part = slice(h * width, (h + 1) * width)
                expected[:, part] += keys.detach()[:, part] @ (up @ down).T
        if isinstance(child, kernel_mix.Output):
            width, rank = site.d_in // len(child.A_o), child.A_o.shape[1]
            for h, down in enumerate(child.A_o.detach()):
                up = child.B_o.detach()[:, h * rank : (h + 1) * rank]
                expected += x[:, h * width : (h + 1) * width] @ (up @ down).T
        assert torch.allclose(said(site, child, x), expected), site.role


def test_a_head_changes_nothing_but_itself() -> None:
    model = applied("gpt2")
    for kind, factor in ((kernel_mix.Query, "A_q"), (kernel_mix.Value, "A_v")):
        site, child = children(model, kind)[0]
        x = torch.randn(5, site.d_in, dtype=torch.float64)
        before = said(site, child, x)
        with torch.no_grad():
            getattr(child, factor)[1].add_(1.0)
        moved = (said(site, child, x) != before).any(0).view(4, 6).any(1)
        assert moved.tolist() == [False, True, False, False]


def test_values_react_to_the_keys_weight_and_queries_do_not() -> None:
    model = applied("llama")
    for kind, reacts in ((kernel_mix.Query, False), (kernel_mix.Value, True), (kernel_mix.Output, False)):
        site, child = children(model, kind)[0]
        x = torch.randn(5, site.d_in, dtype=torch.float64)
        key = children(model, kernel_mix.Value)[0][1].key
        before, weight = said(site, child, x), key.weight.detach().clone()
        with torch.no_grad():
            key.weight.mul_(2.0)
            doubled = said(site, child, x)
            key.weight.copy_(weight)
        assert torch.allclose(doubled, 2 * before if reacts else before)


def test_ranks_of_heads_add_up_where_those_of_lora_do_not() -> None:
    """Four heads of rank two correct the queries with rank eight; each head's part has rank two."""
    site, child = children(applied("gpt2"), kernel_mix.Query)[0]
    weight, _ = child.delta(site)
    assert torch.linalg.matrix_rank(weight).item() == 8
    assert [torch.linalg.matrix_rank(part).item() for part in weight.view(4, 6, -1)] == [2, 2, 2, 2]


@pytest.mark.parametrize("targets", [("attn.q", "attn.v"), ("attn.q", "attn.v", "attn.o")])
def test_lite_has_no_shared_factors(targets: tuple[str, ...]) -> None:
    model = kernel_mix.apply(tiny.model("bert"), **RANKS, targets=targets)
    moving = {n: p.numel() for n, p in model.named_parameters() if p.requires_grad}
    assert not any(name.endswith(("qs", "vs")) for name in moving)
    backbone, task, labels = layout("bert")
    cost = KB["kernel_mix"].cost(backbone, task=task, num_labels=labels, targets=targets, **RANKS)
    assert sum(moving.values()) == cost.trained
