"""Spectral Adapter: additions change a weight by twice the rank of LoRA; rotations keep its singular values."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import spectral_adapter

pytestmark = pytest.mark.torch


def test_an_addition_has_twice_the_rank_of_lora() -> None:
    model = spectral_adapter.apply(tiny.model("llama"), r=3)
    shake(model)
    for _, child in kit.at_sites(model, "spectral_adapter", spectral_adapter.Added):
        assert torch.linalg.matrix_rank(child.delta()) == 6


def test_a_rotation_keeps_the_singular_values_and_the_smaller_directions() -> None:
    model = spectral_adapter.apply(tiny.model("llama"), r=3, mode="rotation")
    shake(model)
    for site, child in kit.at_sites(model, "spectral_adapter", spectral_adapter.Rotated):
        before, after = site.weight, site.weight + child.delta()
        assert not torch.allclose(before, after)
        assert torch.allclose(torch.linalg.svdvals(before), torch.linalg.svdvals(after))
        u, _, v = torch.linalg.svd(before, full_matrices=False)
        assert torch.allclose(after @ v[3:].T, before @ v[3:].T)
        assert torch.allclose(u[:, 3:].T @ after, u[:, 3:].T @ before)
