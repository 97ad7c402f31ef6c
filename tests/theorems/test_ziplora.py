"""ZipLoRA: weights of columns. Two LoRAs that use different inputs of a module have no penalty and do not meet."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance.trial import Trial
from reference_impls import _kit as kit
from reference_impls import lora, ziplora

pytestmark = pytest.mark.torch


def test_the_merged_change_takes_its_columns_from_the_two_loras() -> None:
    trial = Trial("ziplora", "llama", {"r": 2}, ("attn.q", "mlp.up"))
    models = [trial.of.restored(one) for one in trial.inputs]
    parts = [[child.delta() for _, child in kit.at_sites(m, "lora", lora.LoRA)] for m in models]
    found = trial.make()
    zips = [child for _, child in kit.at_sites(found, "ziplora", ziplora.Zip)]
    assert ziplora.penalty(found) == len(zips) == 4                     # at the start, all weights are one
    for child, first, second in zip(zips, *parts, strict=True):
        assert torch.allclose(child.delta(), first + second)
        half = torch.arange(len(child.m1)) < len(child.m1) // 2
        child.m1.data, child.m2.data = half.to(first), (~half).to(first)
        assert torch.allclose(child.delta(), torch.where(half, first, second))
        assert torch.linalg.matrix_rank(child.delta()) == 4
    assert ziplora.penalty(found) == 0
