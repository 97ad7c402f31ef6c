"""LoFiT: a vector of a head is a constant shift of the attention's output, for every input and position."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import lofit

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_largest_scales_choose_heads_over_all_layers(family: str) -> None:
    model = lofit.apply(tiny.model(family), heads=1)
    children = [child for _, child in kit.at_sites(model, "lofit", lofit.Offset)]
    scales = [torch.zeros_like(child.v) for child in children]
    last = children[-1]
    scales[-1][last.head_dim : 2 * last.head_dim] = 0.1
    scales[0][0] = 0.1
    lofit.choose(model, [scale.detach() for scale in scales])
    assert [child.mask.nonzero().flatten().tolist() for child in children] == [[]] * (len(children) - 1) + [[1]]
    assert last.each[1].abs().max() > 0
    assert sum(child.each[~child.mask].abs().sum() for child in children) == 0
    shake(model)
    for site, child in kit.at_sites(model, "lofit", lofit.Offset):
        x, y = torch.randn(2, 3, 5, site.d_in).to(site.weight)
        shift = site.weight @ child.v
        plain = torch.nn.functional.linear(x, site.weight, site.bias)
        assert torch.allclose(site.module(x) - plain, shift.expand_as(plain))
        assert torch.allclose(site.module(x) - site.module(y), (x - y) @ site.weight.T)
