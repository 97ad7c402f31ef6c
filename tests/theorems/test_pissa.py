"""PiSSA: what is frozen has lost exactly the largest singular values, and the factors hold them, whatever the scale."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import pissa
from reference_impls.lora import LoRA

pytestmark = pytest.mark.torch


@pytest.mark.parametrize(("family", "alpha"), [("gpt2", 3.0), ("llama", 12.0)])
def test_the_spectrum_is_split(family: str, alpha: float) -> None:
    plain = kit.sites(tiny.plain(family), ("attn.*",))
    before = {(site.path, site.role): torch.linalg.svdvals(site.weight) for site in plain}
    model = pissa.apply(tiny.model(family), r=3, alpha=alpha, targets=("attn.*",))
    for site, child in kit.at_sites(model, "pissa", LoRA):
        values = before[site.path, site.role]
        trained, rest = torch.linalg.svdvals(child.delta()), torch.linalg.svdvals(site.weight)
        assert torch.allclose(trained[:3], values[:3])
        assert torch.allclose(rest[: len(values) - 3], values[3:])
        assert torch.allclose(child.A.norm(dim=1), child.B.norm(dim=0)), "each factor has the root"
