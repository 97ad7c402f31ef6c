"""NLoRA: its parts approximate a weight with the block's inverse between them, and without it start near the model."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import nlora

pytestmark = pytest.mark.torch


def test_with_the_inverse_the_parts_are_a_weight_of_their_rank() -> None:
    torch.manual_seed(0)
    weight = torch.randn(7, 3).double() @ torch.randn(3, 9).double()
    child = nlora.NLoRA(weight, r=3, alpha=3.0, dropout=0.0, intermediate_only=True)
    assert not torch.allclose(child.delta(), weight), "the block itself is another matrix"
    child.N.data = torch.linalg.inv(child.N.data)
    assert torch.allclose(child.delta(), weight), "the Nyström approximation is exact"


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_start_shrinks_with_the_cube_of_the_weight(family: str) -> None:
    sizes = []
    for scale in (1.0, 0.1):
        model = tiny.model(family)
        for site in kit.sites(model, ("attn.q",)):
            site.weight.data.mul_(scale)
        nlora.apply(model, r=3, alpha=3.0, targets=("attn.q",))
        sizes.append(torch.stack([child.delta().norm() for _, child in kit.at_sites(model, "nlora", nlora.NLoRA)]))
    assert sizes[0].min() > 0, "it does not start as the pretrained model"
    assert torch.allclose(sizes[1], sizes[0] / 1000)
