"""Uni-LoRA: the map from the vector to all entries of all factors is an isometry, and LoRA where nothing is shared."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import uni_lora

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("size", [1, 7, 500, 704])      # 704 entries: nothing is shared
def test_the_map_is_an_isometry(size: int) -> None:
    torch.manual_seed(0)
    model = uni_lora.apply(tiny.model("t5"), r=4, theta_d_length=size, targets=("xattn.q", "xattn.v", "xattn.k"))
    children = [child for _, child in kit.at_sites(model, "uni_lora", uni_lora.UniLoRA)]
    shared = children[0].shared
    entries = torch.cat([shared.look_up(i).flatten() for c in children for i in (c.index_a, c.index_b)])
    assert torch.allclose(entries.norm(), shared.theta.norm())
    index = torch.cat([i.flatten() for c in children for i in (c.index_a, c.index_b)])
    times = index.bincount(minlength=size)
    assert times.max() - times.min() <= 1
