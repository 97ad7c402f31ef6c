"""KAdaptation: products of rank one add up to a correction of high rank; two zero factors would never be trained."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import kadaptation

pytestmark = pytest.mark.torch


def test_the_correction_is_the_sum_of_kronecker_products_and_has_a_rank_above_one() -> None:
    torch.manual_seed(0)
    model = kadaptation.apply(tiny.model("vit"), n=2, scale=3.0)
    shake(model)
    for site, child in kit.at_sites(model, "kadaptation", kadaptation.KAdaptation):
        small, large = child.shared.P_l @ child.shared.P_r, child.U @ child.V
        products = sum(torch.kron(p, w) for p, w in zip(small, large, strict=True))
        assert torch.allclose(child.delta(), 3.0 * products.T, atol=1e-6)
        assert torch.linalg.matrix_rank(torch.kron(small[0], large[0])) == 1
        assert torch.linalg.matrix_rank(child.delta()) == 2
        assert child.U.numel() + child.V.numel() == site.d_in + site.d_out


def test_layers_share_the_small_matrices_and_the_modules_of_an_attention_one_vector() -> None:
    model = kadaptation.apply(tiny.model("vit"), n=2)
    children = [child for _, child in kit.at_sites(model, "kadaptation", kadaptation.KAdaptation)]
    assert len(children) == 4
    assert len({id(child.shared) for child in children}) == len({id(child.offset) for child in children}) == 2


@pytest.mark.parametrize("zero", [False, True])
def test_with_both_factors_at_zero_only_the_vector_has_a_gradient(zero: bool) -> None:
    model = kadaptation.apply(tiny.model("vit"), n=2, dropout=0.0)
    if zero:
        for _, child in kit.at_sites(model, "kadaptation", kadaptation.KAdaptation):
            child.U.data.zero_()
    tiny.loss(model, "vit").backward()
    moved = {name.rsplit(".", 1)[1] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved & {"U", "V", "P_l", "P_r", "b"} == ({"b"} if zero else {"V", "b"})
