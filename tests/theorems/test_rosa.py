"""RoSA: a change of low rank and a few entries is matched exactly; the positions are those of the largest gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from peftonomy.conformance import tiny
from peftonomy.conformance.trial import shake
from reference_impls import _kit as kit
from reference_impls import rosa

pytestmark = pytest.mark.torch


def made() -> tuple[torch.nn.Module, kit.Site, rosa.RoSA]:
    torch.manual_seed(0)
    model = rosa.apply(tiny.model("llama"), r=1, alpha=1.0, dropout=0.0, density=0.02, targets=("mlp.up",))
    site, child = next(kit.at_sites(model, "rosa", rosa.RoSA))
    return model, site, child


def test_the_change_is_of_low_rank_but_for_the_chosen_entries() -> None:
    model, _, child = made()
    shake(model)
    child.positions.mul_(child.delta().numel() // len(child.positions))         # in different rows and columns
    change = child.delta()
    assert torch.linalg.matrix_rank(change) > 2
    low = change.clone()
    low.view(-1)[child.positions] -= child.values
    assert torch.linalg.matrix_rank(low) == 1
    assert len(child.positions.unique()) == len(child.values) == int(0.02 * change.numel())


def test_the_sparse_product_has_the_gradients_of_the_dense_one() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    values = torch.randn(4, dtype=torch.float64, requires_grad=True)
    positions = torch.tensor([0, 7, 19, 34])

    def product(x: Tensor, values: Tensor) -> Tensor:
        result: Tensor = rosa.Product.apply(x, values, positions, 7)           # type: ignore[no-untyped-call]
        return result

    assert torch.equal(product(x, values), x @ rosa.dense(values, positions, 7, 5).T)
    assert torch.autograd.gradcheck(product, (x, values))


def test_the_last_losses_choose_and_the_factors_start_anew() -> None:
    model, site, child = made()
    start = child.A.detach().clone()
    x, weights = (torch.randn(2, 3, width, dtype=torch.float64) for width in (site.d_in, site.d_out))
    modules = [site.module for site, _ in kit.at_sites(model, "rosa", rosa.RoSA)]
    rosa.calibrate(model, (sum((m(x[i]) * weights[i]).sum() for m in modules) for i in (0, 1)))
    score = (weights[1].T @ x[1]).square()                  # the last loss alone, whose gradient is this
    wanted = score.flatten().topk(len(child.values)).indices.sort().values
    assert torch.equal(child.positions, wanted)
    assert torch.equal(child.A, start)
    assert not child.B.any()
    assert site.module.weight.requires_grad is False
