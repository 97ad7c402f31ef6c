"""SAM: the closed-form choice is the best of all choices, and what is trained is that choice."""

from __future__ import annotations

import itertools
from functools import partial

import pytest
import torch
from torch import Tensor

from peftonomy.conformance import tiny
from peftonomy.conformance.trial import layout
from reference_impls import _sparse as sparse
from reference_impls import sam_peft

from ..knowledge import KB

pytestmark = pytest.mark.torch


def best_value(gradient: Tensor, hessian: Tensor, entries: list[int]) -> float:
    """min over Delta on these entries of g Delta + 1/2 Delta H Delta, by solving the linear system."""
    step = torch.linalg.solve(hessian[entries][:, entries], -gradient[entries])
    return float(gradient[entries] @ step + 0.5 * step @ hessian[entries][:, entries] @ step)


def test_no_other_choice_of_entries_reaches_as_low() -> None:
    torch.manual_seed(0)
    curvature_mattered = False
    for _ in range(5):
        gradient = torch.randn(9, dtype=torch.float64)
        hessian = torch.rand(9, dtype=torch.float64).add(0.1).diag()
        chosen = set(sam_peft.gain(gradient, hessian.diagonal()).topk(3).indices.tolist())
        choices = [list(entries) for entries in itertools.combinations(range(9), 3)]
        assert chosen == set(min(choices, key=partial(best_value, gradient, hessian)))
        curvature_mattered |= chosen != set(sam_peft.gain(gradient).topk(3).indices.tolist())
    assert curvature_mattered, "a curvature that never matters proves nothing"


@pytest.mark.parametrize("curved", [False, True])
def test_every_tensor_keeps_its_largest_gains(curved: bool) -> None:
    model = sam_peft.apply(tiny.model("bert"), kept=0.03)
    plain = tiny.model("bert")
    tiny.loss(plain, "bert").backward()
    gradients = {n: p.grad for n, p in plain.named_parameters() if p.grad is not None and n in sparse.parameters(model)}
    torch.manual_seed(0)
    curvature = {n: torch.rand_like(g) + 0.1 for n, g in gradients.items()} if curved else None
    sam_peft.calibrate(model, [tiny.loss(model, "bert")], curvature)
    for name, mask in sparse.of(model, "sam_peft").masks.items():
        scores = gradients[name] ** 2 / (curvature[name] if curvature else 1)
        count = int(0.03 * mask.numel())
        assert int(mask.sum()) == count
        assert not count or scores[mask].min() >= scores[~mask].max()


def test_signs_are_kept_in_the_sum() -> None:
    """Two batches that disagree cancel, and leave the choice to the third."""

    def chosen(*factors: float) -> dict[str, Tensor]:
        model = sam_peft.apply(tiny.model("gpt2"), kept=0.02)
        losses = [tiny.loss(model, "gpt2") if f == 1 else f * tiny.outputs(model, "gpt2").sum() for f in factors]
        sam_peft.calibrate(model, losses)
        return dict(sparse.of(model, "sam_peft").masks)

    cancelled, alone, other = chosen(1, 50, -50), chosen(1), chosen(1, 50)
    assert all(torch.equal(cancelled[n], alone[n]) for n in alone)
    assert any(not torch.equal(other[n], alone[n]) for n in alone)


def test_short_tensors_keep_nothing_and_the_count_is_the_entrys() -> None:
    model = sam_peft.apply(tiny.model("bert"), kept=0.005)
    sam_peft.calibrate(model, [tiny.loss(model, "bert")])
    state = sam_peft.pack(model)
    backbone, task, labels = layout("bert")
    cost = KB["sam_peft"].cost(backbone, task=task, num_labels=labels)
    assert sum(v.numel() for v in state.values()) == cost.stored == 2 * cost.trained > 0
    assert not any(v.numel() for n, v in state.items() if "bias" in n)
