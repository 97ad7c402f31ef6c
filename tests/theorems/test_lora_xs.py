"""LoRA-XS: it changes a weight only inside its principal subspaces, and the factors are the same in every library."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import lora_xs

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_change_stays_in_the_principal_subspaces(family: str) -> None:
    model = lora_xs.apply(tiny.model(family), r=3, alpha=3.0, targets=("attn.*",))
    shake(model)
    for site, child in kit.at_sites(model, "lora_xs", lora_xs.LoRAXS):
        u, s, v = torch.linalg.svd(site.weight, full_matrices=False)
        change = child.delta()
        assert torch.allclose(u[:, :3] @ (u[:, :3].T @ change), change)
        assert torch.allclose((change @ v[:3].T) @ v[:3], change)
        assert torch.allclose(child.B @ child.A, u[:, :3] * s[:3] @ v[:3]), "R = 1 adds the principal part"
        assert bool((child.B.amax(0) >= -child.B.amin(0)).all()), "signs do not depend on the library"
