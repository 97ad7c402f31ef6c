"""DiaBlo: a part of the input reaches only the part of the output at its place, there with full rank."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import diablo

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("n", [1, 4, 5])
def test_change_is_block_diagonal_and_dense_in_its_blocks(n: int) -> None:
    model = diablo.apply(tiny.model("llama"), n=n, dropout=0.0, targets=("attn.q", "mlp.down"))
    shake(model)
    for site, child in kit.at_sites(model, "diablo", diablo.Blocks):
        change, (blocks, high, wide) = child.delta(), child.D.shape
        out, into = torch.arange(site.d_out)[:, None] // wide, torch.arange(site.d_in) // high
        assert torch.equal(change != 0, out == into)
        if site.d_in % n == site.d_out % n == 0:
            assert blocks == n
            assert torch.linalg.matrix_rank(change) == min(site.d_in, site.d_out), "of full rank"


def test_one_block_is_the_whole_weight() -> None:
    model = diablo.apply(tiny.model("bert"), n=1, dropout=0.0, targets=("attn.v",))
    tiny.loss(model, "bert").backward()
    for site, child in kit.at_sites(model, "diablo", diablo.Blocks):
        assert child.D.shape == (1, site.d_in, site.d_out)
        assert child.D.grad is not None
        assert bool(child.D.grad.any()), "the first step trains already, unlike LoRA's first factor"
