"""Hydra: the sequential branch keeps the weight's own column space, the parallel one adds new directions to it."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import hydra

pytestmark = pytest.mark.torch


@pytest.mark.parametrize(("off", "stays"), [("p", True), ("s", False)])
def test_the_sequential_branch_reads_no_inputs_that_the_weight_ignores(off: str, stays: bool) -> None:
    torch.manual_seed(0)
    model = hydra.apply(tiny.model("bert"), dropout=0.0, targets=("mlp.down",))
    shake(model)
    [(site, child), *_] = kit.at_sites(model, "hydra", hydra.Hydra)
    child.get_parameter(f"B_{off}").data.zero_()
    ignored = torch.linalg.svd(site.weight, full_matrices=True).Vh[site.d_out :]        # W x = 0 for these x
    assert len(ignored) > 0
    same = site.module(torch.zeros_like(ignored))
    assert torch.allclose(site.module(ignored), same, atol=1e-6) == stays


def test_the_change_has_the_rank_of_both_branches_and_moves_the_bias() -> None:
    model = hydra.apply(tiny.model("bert"), r_par=1, r_seq=2, dropout=0.0, biases=False, targets=("mlp.down",))
    shake(model)
    before = [(site.weight.clone(), site.bias.clone()) for site, _ in kit.at_sites(model, "hydra", hydra.Hydra)
              if site.bias is not None]  # fmt: skip
    loss = tiny.loss(model, "bert")
    sites = [site for site, _ in kit.at_sites(model, "hydra", hydra.Hydra)]
    hydra.merge(model)
    assert torch.allclose(tiny.loss(model, "bert"), loss)
    for site, (weight, bias) in zip(sites, before, strict=True):
        assert torch.linalg.matrix_rank(site.weight - weight, rtol=1e-4) == 3
        assert site.bias is not None
        assert not torch.allclose(site.bias, bias)
