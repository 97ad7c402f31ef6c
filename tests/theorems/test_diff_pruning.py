"""Diff pruning: relaxed gates with the chances that are claimed, a target share met, and a fixed mask after it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from peftonomy.conformance.trial import layout
from reference_impls import diff_pruning

from ..knowledge import KB

pytestmark = pytest.mark.torch


def gate(alpha: float, *, structured: bool = False, low: float = -1.5, high: float = 1.5) -> diff_pruning.Gate:
    settings = {"penalty": 0.0, "alpha_init": alpha, "low": low, "high": high}
    return diff_pruning.Gate(torch.zeros(200, 300, dtype=torch.float64), structured=structured, **settings)


@pytest.mark.parametrize(("alpha", "low", "high"), [(0.0, -1.5, 1.5), (2.0, -1.5, 1.5), (-1.0, -0.1, 1.1)])
def test_a_drawn_gate_is_open_with_the_chance_that_is_penalised(alpha: float, low: float, high: float) -> None:
    torch.manual_seed(0)
    one = gate(alpha, low=low, high=high)
    z = one.z("alpha", one.alpha)
    chance = one.open()[0, 0].item()
    error = (chance * (1 - chance) / z.numel()) ** 0.5
    assert abs((z > 0).double().mean().item() - chance) < 4 * error
    assert 0 < (z == 1).double().mean() < 1        # both ends are hit exactly, and what lies between as well
    assert ((z > 0) & (z < 1)).any()


def test_the_penalty_is_the_gradient_of_the_sum_of_chances() -> None:
    def gradients(penalty: float) -> dict[str, Tensor]:
        torch.manual_seed(0)
        model = diff_pruning.apply(tiny.model("bert"), penalty=penalty, alpha_init=1.0)
        shake(model)
        total = tiny.loss(model, "bert")
        if not penalty:
            chances = [c.sum() for g in diff_pruning.gates(model).values() for c in g.chances().values()]
            total = total + 0.01 * torch.stack(chances).sum()
        total.backward()
        return {n: p.grad for n, p in model.named_parameters() if "alpha" in n and p.grad is not None}

    built_in, by_hand = gradients(0.01), gradients(0.0)
    assert built_in.keys() == by_hand.keys()
    assert all(torch.allclose(built_in[n], by_hand[n], atol=1e-12) for n in built_in)


def trained(target: float, *, structured: bool) -> tuple[nn.Module, float]:
    """A tiny model whose relaxed count was pushed below a target share, and that share."""
    torch.manual_seed(0)
    model = diff_pruning.apply(
        tiny.model("bert"), kept=target, structured=structured, penalty=3e-3, alpha_init=2.0
    ).train()
    moved = {n: p for n, p in model.named_parameters() if p.requires_grad}
    slow, fast = [p for n, p in moved.items() if n.endswith(".w")], [p for n, p in moved.items() if "alpha" in n]
    optimiser = torch.optim.Adam([{"params": slow, "lr": 0.03}, {"params": fast, "lr": 0.1}])
    total = sum(p.numel() for p in slow)
    for _ in range(150):
        optimiser.zero_grad()
        tiny.loss(model, "bert").backward()
        optimiser.step()
        if diff_pruning.expected(model) <= target * total:
            break
    return model.eval(), diff_pruning.expected(model).item() / total


@pytest.mark.parametrize("structured", [True, False])
def test_relaxed_gates_close_to_the_target_and_pruning_makes_it_exact(structured: bool) -> None:
    target = 0.2
    model, share = trained(target, structured=structured)
    assert 0 < share <= target
    start = tiny.loss(tiny.model("bert"), "bert").item()
    assert tiny.loss(model, "bert").item() < 0.9 * start, "gates that only close prove nothing"
    deltas = {n: g.delta().detach().abs() for n, g in diff_pruning.gates(model).items()}
    diff_pruning.prune(model)
    found = diff_pruning.gates(model)
    kept = torch.cat([deltas[n][g.mask] for n, g in found.items()])
    dropped = torch.cat([deltas[n][~g.mask] for n, g in found.items()])  # type: ignore[operator]
    assert kept.min() >= dropped.max()
    backbone, task, labels = layout("bert")
    cost = KB["diff_pruning"].cost(backbone, task=task, num_labels=labels, kept=target, structured=structured)
    state = diff_pruning.pack(model)
    assert sum(v.numel() for v in state.values()) == cost.stored
    assert len(kept) == int(target * sum(d.numel() for d in deltas.values())) == cost.stored // 2
    assert not any("alpha" in n for n, _ in model.named_parameters())


def test_survivors_are_trained_on_with_a_fixed_mask() -> None:
    model, _ = trained(0.2, structured=True)
    diff_pruning.prune(model)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    loss = tiny.loss(model, "bert").item()
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for _ in range(5):
        optimiser.zero_grad()
        tiny.loss(model, "bert").backward()
        optimiser.step()
    assert tiny.loss(model, "bert").item() < loss
    for name, one in diff_pruning.gates(model).items():
        moved = one.w != before[f"{name}.w"]
        assert one.mask is not None
        assert not (moved & ~one.mask).any()
