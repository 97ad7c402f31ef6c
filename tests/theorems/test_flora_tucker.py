"""FLoRA: the sides of the core may differ, and the smaller one is the rank of the correction."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import flora_tucker, moslora

pytestmark = pytest.mark.torch

TARGETS = ("attn.q",)


def test_the_smaller_side_of_the_core_is_the_rank() -> None:
    for r_in, r_out in ((2, 4), (4, 2)):
        model = flora_tucker.apply(tiny.model("llama"), r_in=r_in, r_out=r_out, targets=TARGETS)
        shake(model)
        for _, child in kit.at_sites(model, "flora_tucker", flora_tucker.Tucker):
            assert child.G.shape == (r_out, r_in)
            assert int(torch.linalg.matrix_rank(child.delta())) == 2


def test_at_the_start_only_the_core_gets_a_gradient() -> None:
    """MoSLoRA has the same three matrices, and there it is the last factor that gets it."""
    model = flora_tucker.apply(tiny.model("bert"), r_in=2, r_out=2, dropout=0.0, targets=TARGETS)
    other = moslora.apply(tiny.model("bert"), r=2, dropout=0.0, targets=TARGETS)
    for made in (model, other):
        tiny.loss(made, "bert").backward()
    moving = {
        made: {name.rpartition(".")[2] for name, p in made.named_parameters() if p.grad is not None and p.grad.any()}
        for made in (model, other)
    }
    assert moving == {model: {"G"}, other: {"B"}}


def test_the_scale_is_not_divided_by_the_rank() -> None:
    child = flora_tucker.Tucker(6, 5, r_in=4, r_out=4, scale=2.0, dropout=0.0)
    child.G.data.normal_()
    assert torch.allclose(child.delta(), 2 * child.B @ child.G @ child.A)
