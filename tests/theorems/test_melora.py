"""MELoRA: with LoRA's parameters, its correction has n times the rank, and is block-diagonal."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import lora, melora

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("n", [1, 2, 4])
def test_rank_grows_with_the_parts_and_parameters_do_not(n: int) -> None:
    model = melora.apply(tiny.model("bert"), r=2, n=n, targets=("attn.q",))
    plain = lora.apply(tiny.model("bert"), r=2, targets=("attn.q",))
    shake(model)
    pairs = zip(kit.at_sites(model, "melora", melora.Minis), kit.at_sites(plain, "lora", lora.LoRA), strict=True)
    for (site, child), (_, other) in pairs:
        assert sum(p.numel() for p in child.parameters()) == sum(p.numel() for p in other.parameters())
        change = child.delta()
        assert torch.linalg.matrix_rank(change) == 2 * n
        rows, columns = torch.arange(site.d_out) * n // site.d_out, torch.arange(site.d_in) * n // site.d_in
        assert not change[rows[:, None] != columns].any()
