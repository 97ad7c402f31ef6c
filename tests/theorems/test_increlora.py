"""IncreLoRA: rank goes to the weights of the largest score, and ends exactly on the budget."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import increlora

pytestmark = pytest.mark.torch


def children(model: nn.Module) -> list[increlora.Growing]:
    return [child for _, child in kit.at_sites(model, "increlora", increlora.Growing)]


def scores_by_hand(model: nn.Module, family: str) -> Tensor:
    """The score after one step, from the gradients of the merged weights of a plain model."""
    plain, each = tiny.model(family), []
    with torch.no_grad():
        for child in children(model):
            plain.get_submodule(child.site.path).weight.add_(child.delta())
    tiny.loss(plain, family).backward()
    for child in children(model):
        gradient = plain.get_submodule(child.site.path).weight.grad
        each.append((child.delta().detach() * gradient).abs().sum() / gradient.numel() ** 0.5)
    raw = torch.stack(each)
    mean = 0.15 * raw
    return mean * (0.15 * (raw - mean).abs())


def test_rank_goes_to_the_weights_that_a_hand_computation_picks() -> None:
    torch.manual_seed(0)
    model = increlora.apply(tiny.model("llama"), init_r=2, target_r=3, alpha=4.0)
    shake(model)
    wanted = scores_by_hand(model, "llama")
    tiny.loss(model, "llama").backward()
    found = torch.stack([child.sensitivity * child.uncertainty for child in children(model)])
    assert torch.allclose(found, wanted, rtol=1e-4)
    increlora.grow(model, 3)
    grown = [i for i, child in enumerate(children(model)) if child.rank == 3]
    assert grown == sorted(wanted.topk(3).indices.tolist())
    assert wanted.sort().values[-4] < 0.999 * wanted.sort().values[-3], "a tie would prove nothing"


def test_growth_takes_over_what_the_reserve_has_learned() -> None:
    torch.manual_seed(0)
    model = increlora.apply(tiny.model("llama"), init_r=1, target_r=5, reserve=2)
    shake(model)
    [child] = children(model)[:1]
    before = child.delta() * child.rank
    old = child.A_reserve, child.E_reserve, child.B_reserve
    new = child.grow()
    assert (child.A[-1], child.E[-1], child.B[-1]) == old
    assert [p.requires_grad for p in new] == [True] * 3
    assert new[0] is old[1], "the size of what was the reserve is trained from now on"
    assert child.rank == 3
    assert torch.allclose(child.delta() * child.rank, before, atol=1e-6)     # but for the scale and the new reserve


@pytest.mark.parametrize(("reserve", "h"), [(1, 5), (2, 3), (2, 100)])
def test_ends_exactly_on_the_budget(reserve: int, h: int) -> None:
    torch.manual_seed(0)
    model = increlora.apply(tiny.model("bert"), init_r=1, target_r=3, reserve=reserve, alpha=4.0)
    sites = len(children(model))
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
    totals = [sites]
    for step in range(16):
        optimiser.zero_grad()
        (tiny.loss(model, "bert") + 0.1 * increlora.penalty(model)).backward()
        optimiser.step()
        new = increlora.grow(model, h) if step else []
        if new:
            optimiser.add_param_group({"params": new})
        totals.append(sum(child.rank for child in children(model)))
    assert totals == sorted(totals)
    assert totals[-1] == 3 * sites
    assert totals.index(3 * sites) < len(totals) - 1, "growth that goes on must be seen to stop"
    known = {id(p) for group in optimiser.param_groups for p in group["params"]}
    assert {id(p) for p in model.parameters() if p.requires_grad} <= known
    ranks = [child.rank for child in children(model)]
    assert h == 100 or len(set(ranks)) > 1, "an even allocation needs no score"
    before = [child.delta().detach() for child in children(model)]
    increlora.finish(model)
    assert [child.rank for child in children(model)] == ranks
    for child, old in zip(children(model), before, strict=True):
        assert torch.allclose(child.delta(), old)       # reserves were switched off when the budget was spent
        assert [len(pieces) for pieces in (child.A, child.E, child.B)] == [1, 1, 1]


def test_the_penalty_is_zero_where_the_vectors_are_orthonormal() -> None:
    model = increlora.apply(tiny.model("bert"), init_r=2, target_r=4, reserve=2)
    assert increlora.penalty(model) > 0.5
    for child in children(model):
        for used, reserve, side in ((child.A[0], child.A_reserve, 0), (child.B[0], child.B_reserve, 1)):
            whole = torch.cat([used, reserve], side)
            nn.init.orthogonal_(whole)
            parts = whole.tensor_split([used.shape[side]], side)
            for piece, value in zip((used, reserve), parts, strict=True):
                piece.data.copy_(value)
    assert increlora.penalty(model) < 1e-6
