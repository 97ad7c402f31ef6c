"""MiLoRA: what is frozen has lost exactly the smallest singular values, and the factors hold them."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import milora, pissa
from reference_impls.lora import LoRA

pytestmark = pytest.mark.torch


@pytest.mark.parametrize(("family", "alpha"), [("gpt2", 3.0), ("llama", 12.0)])
def test_the_minor_part_is_trained(family: str, alpha: float) -> None:
    plain = kit.sites(tiny.plain(family), ("attn.*",))
    before = {(site.path, site.role): torch.linalg.svdvals(site.weight) for site in plain}
    model = milora.apply(tiny.model(family), r=3, alpha=alpha, targets=("attn.*",))
    for site, child in kit.at_sites(model, "milora", LoRA):
        values = before[site.path, site.role]
        assert torch.allclose(torch.linalg.svdvals(child.delta())[:3], values[-3:])
        assert torch.allclose(torch.linalg.svdvals(site.weight)[:-3], values[:-3])
        assert torch.allclose(child.A @ site.weight.T, torch.zeros_like(child.B.T), atol=1e-10)


def test_at_full_rank_it_is_pissa() -> None:
    weight = torch.randn(5, 7, dtype=torch.float64)
    for mine, others in zip(milora.minor(weight, 5, 2.0), pissa.principal(weight, 5, 2.0), strict=True):
        assert torch.equal(mine, others)
