"""U-MAM and S-MAM: a MAM adapter pruned by first-order scores to a budget, by entries or by units."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from peftonomy.conformance import tiny
from peftonomy.conformance.trial import layout
from reference_impls import _sparse as sparse
from reference_impls import u_mam

from ..knowledge import KB

pytestmark = pytest.mark.torch


def losses(model: nn.Module, family: str, steps: int) -> Iterator[Tensor]:
    return (tiny.loss(model, family) for _ in range(steps))


def pruned(family: str, *, kept: float, structured: bool) -> nn.Module:
    torch.manual_seed(0)
    model = u_mam.apply(tiny.model(family), prefix_length=4, bottleneck=6, kept=kept, structured=structured)
    return u_mam.calibrate(model, losses(model, family, 3), lr=0.05)


def scores_by_hand(family: str) -> dict[str, Tensor]:
    """sum over steps of |phi dL/dphi| with an optimiser and `backward`."""
    torch.manual_seed(0)
    model = u_mam.apply(tiny.model(family), prefix_length=4, bottleneck=6)
    live = {n: p for n, p in model.named_parameters() if p.requires_grad}
    optimiser = torch.optim.SGD(live.values(), lr=0.05)
    totals = {n: torch.zeros_like(p) for n, p in live.items()}
    for _ in range(3):
        optimiser.zero_grad()
        tiny.loss(model, family).backward()
        optimiser.step()
        for name, p in live.items():
            totals[name] += (p.detach() * p.grad).abs()  # type: ignore[operator]
    return totals


@pytest.mark.parametrize("family", ["bert", "t5", "llama"])
@pytest.mark.parametrize("structured", [False, True])
def test_the_budget_is_spent_to_the_last_number(family: str, structured: bool) -> None:
    backbone, task, labels = layout(family)
    settings = {"prefix_length": 4, "bottleneck": 6}
    for kept in (0.1, 0.35, 1.0):
        masks = sparse.of(pruned(family, kept=kept, structured=structured), "u_mam").masks
        cost = KB["u_mam"].cost(
            backbone, task=task, num_labels=labels, kept=kept, structured=structured, **settings  # type: ignore[arg-type]
        )
        assert sum(int(m.sum()) for m in masks.values()) == cost.trained


def test_single_entries_of_largest_score_survive() -> None:
    masks, totals = sparse.of(pruned("bert", kept=0.2, structured=False), "u_mam").masks, scores_by_hand("bert")
    assert masks.keys() == totals.keys()
    kept, dropped = (torch.cat([totals[n][m ^ off] for n, m in masks.items()]) for off in (False, True))
    assert kept.min() > dropped.max()
    shares = {n.rpartition(".")[2]: 0.0 for n in masks}
    for name, mask in masks.items():
        shares[name.rpartition(".")[2]] += float(mask.double().mean())
    assert len({round(s, 3) for s in shares.values()}) > 1, "the budget went where it was needed, not everywhere alike"


def test_units_are_kept_whole_and_by_their_summed_scores() -> None:
    masks, totals = sparse.of(pruned("bert", kept=0.4, structured=True), "u_mam").masks, scores_by_hand("bert")
    prefixes, hidden = {True: [], False: []}, {True: [], False: []}  # type: ignore[var-annotated]
    for name, mask in masks.items():
        if name.endswith(("P_k", "P_v")):
            assert ((mask.all(1)) | (~mask.any(1))).all()
            for row, score in zip(mask.all(1), totals[name].sum(1), strict=True):
                prefixes[bool(row)].append(float(score))
        if name.endswith("W_down"):
            path = name.removesuffix("W_down")
            unit = mask.all(1)
            assert torch.equal(mask, unit[:, None].expand_as(mask))
            assert torch.equal(masks[f"{path}b_down"], unit)
            assert torch.equal(masks[f"{path}W_up"], unit.expand_as(masks[f"{path}W_up"]))
            summed = totals[name].sum(1) + totals[f"{path}b_down"] + totals[f"{path}W_up"].sum(0)
            for on, score in zip(unit, summed, strict=True):
                hidden[bool(on)].append(float(score))
    for found in (prefixes, hidden):
        assert min(found[True]) > max(found[False])


def test_a_hidden_unit_is_all_that_reads_it_and_all_that_it_writes() -> None:
    torch.manual_seed(0)
    named = {"x.W_down": torch.rand(3, 5), "x.b_down": torch.rand(3), "x.W_up": torch.rand(5, 3)}
    [found] = dict(u_mam.units(named))["hidden"].values()
    for i in range(3):
        mask = {name: torch.zeros_like(value) for name, value in named.items()}
        mask["x.W_down"][i], mask["x.b_down"][i], mask["x.W_up"][:, i] = 1, 1, 1
        assert torch.isclose(found[i], torch.stack([(named[n] * m).sum() for n, m in mask.items()]).sum())


def test_what_was_pruned_is_zero_and_stays_zero() -> None:
    model = pruned("gpt2", kept=0.3, structured=False)
    masks, live = sparse.of(model, "u_mam").masks, u_mam.tensors(model)
    optimiser = torch.optim.Adam(live.values(), lr=0.01)
    for _ in range(3):
        optimiser.zero_grad()
        tiny.loss(model, "gpt2").backward()
        optimiser.step()
    assert all(not p[~masks[n]].any() for n, p in live.items())
