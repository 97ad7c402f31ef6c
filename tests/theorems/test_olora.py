"""OLoRA: the one factor starts orthonormal, and at alpha = r what is frozen has nothing along it."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import olora
from reference_impls.lora import LoRA

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_an_orthonormal_start_that_the_rest_is_free_of(family: str) -> None:
    model = olora.apply(tiny.model(family), r=3, alpha=3.0, targets=("attn.*",))
    for site, child in kit.at_sites(model, "olora", LoRA):
        assert torch.allclose(child.B.T @ child.B, torch.eye(3).double())
        assert (child.B.T @ site.weight).abs().max() < 1e-12
        assert site.weight[:, :3].abs().max() < 1e-12, "the basis spans the first columns"
