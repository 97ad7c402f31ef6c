"""U-BitFit and S-BitFit: first-order scores prune the biases to a budget, by entries and by vectors."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from peftonomy.conformance import tiny
from peftonomy.conformance.trial import layout
from reference_impls import _sparse as sparse
from reference_impls import s_bitfit, u_bitfit

from ..knowledge import KB

pytestmark = pytest.mark.torch


def losses(model: nn.Module, family: str, steps: int) -> Iterator[Tensor]:
    return (tiny.loss(model, family) for _ in range(steps))


def scores_by_hand(family: str, steps: int, lr: float) -> dict[str, Tensor]:
    """sum over steps of |(b - b_0) dL/db|, with an optimiser and `backward` on an untouched model."""
    model = tiny.model(family)
    start = {n: p.detach().clone() for n, p in model.named_parameters()}
    biases = {n: p for n, p in model.named_parameters() if n.endswith(".bias") and not n.startswith("classifier")}
    optimiser = torch.optim.SGD(biases.values(), lr=lr)
    totals = {n: torch.zeros_like(p) for n, p in biases.items()}
    for _ in range(steps):
        optimiser.zero_grad()
        tiny.loss(model, family).backward()
        optimiser.step()
        for name, bias in biases.items():
            totals[name] += ((bias.detach() - start[name]) * bias.grad).abs()  # type: ignore[operator]
    return totals


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_the_entries_of_largest_first_order_score_are_kept_and_the_search_leaves_no_trace(family: str) -> None:
    model = u_bitfit.apply(tiny.model(family), kept=0.1)
    u_bitfit.calibrate(model, losses(model, family, 3), lr=0.05)
    untouched = dict(tiny.model(family).named_parameters())
    assert all(torch.equal(p, untouched[n]) for n, p in model.named_parameters())
    expected = scores_by_hand(family, 3, 0.05)
    masks = sparse.of(model, "u_bitfit").masks
    assert masks.keys() == expected.keys()
    kept = torch.cat([expected[n][m] for n, m in masks.items()])
    dropped = torch.cat([expected[n][~m] for n, m in masks.items()])
    assert kept.min() > dropped.max()
    assert len(kept) == KB["u_bitfit"].cost(layout(family)[0], task=layout(family)[1], num_labels=3, kept=0.1).trained


def test_the_score_is_what_undoing_a_change_does_to_the_loss_to_first_order() -> None:
    """With a tiny step the scores of a search sum to the rise of the loss when all of it is undone."""
    model = u_bitfit.apply(tiny.model("bert"))
    start = tiny.loss(model, "bert").item()
    biases = sparse.parameters(model, ".bias")
    gradients = torch.autograd.grad(tiny.loss(model, "bert"), list(biases.values()))
    scores = u_bitfit.search(model, losses(model, "bert", 1), lr=1e-6)
    with torch.no_grad():
        for bias, gradient in zip(biases.values(), gradients, strict=True):
            bias.sub_(1e-6 * gradient)
    rise = start - tiny.loss(model, "bert").item()
    assert sum(float(s.sum()) for s in scores.values()) == pytest.approx(rise, rel=1e-4)


@pytest.mark.parametrize("kept", [0.05, 0.1, 0.3, 1.0])
def test_vectors_are_kept_whole_best_first_within_the_budget(kept: float) -> None:
    model = s_bitfit.apply(tiny.model("gpt2"), kept=kept)
    s_bitfit.calibrate(model, losses(model, "gpt2", 3), lr=0.05)
    masks = sparse.of(model, "s_bitfit").masks
    assert all(m.all() or not m.any() for m in masks.values())
    spent = sum(int(m.sum()) for m in masks.values())
    budget = KB["s_bitfit"].cost(layout("gpt2")[0], kept=kept).trained
    assert 0 < spent <= budget
    totals = {n: float(s.sum()) for n, s in scores_by_hand("gpt2", 3, 0.05).items()}
    for name, mask in masks.items():        # who is out scores less than all who are in, or was too long by then
        if not mask.any():
            better = sum(masks[n].numel() for n in masks if masks[n].any() and totals[n] > totals[name])
            assert better + mask.numel() > budget
    assert kept < 1 or spent == budget


def test_the_winners_move_and_nothing_else() -> None:
    for module, name in ((u_bitfit, "u_bitfit"), (s_bitfit, "s_bitfit")):
        model = module.apply(tiny.model("bert"), kept=0.2)
        module.calibrate(model, losses(model, "bert", 2))
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
        for loss in losses(model, "bert", 2):
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        masks = sparse.of(model, name).masks
        for parameter, value in model.named_parameters():
            moved = value != before[parameter]
            assert torch.equal(moved, masks.get(parameter, torch.zeros_like(moved))), parameter
