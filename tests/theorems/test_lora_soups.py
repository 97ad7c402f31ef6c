"""LoRA soups: a weighted sum of products, which is one LoRA of a higher rank. Each module has weights of its own."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance import tiny
from peftonomy.conformance.trial import Trial
from reference_impls import _kit as kit
from reference_impls import lora, lora_soups, lorahub

pytestmark = pytest.mark.torch
SETTING = {"tasks": 2, "r": 2, "alpha": 3.0, "dropout": 0.0}
TARGETS = ("attn.q", "mlp.up")


def test_the_change_is_the_weighted_sum_of_the_products() -> None:
    trial = Trial("lora_soups", "llama", SETTING, TARGETS)
    models = [trial.of.restored(one) for one in trial.inputs]
    found = trial.make()
    changes = [[child.delta() for _, child in kit.at_sites(m, "lora", lora.LoRA)] for m in models]
    soups = [soup for _, soup in kit.at_sites(found, "lora_soups", lora_soups.Soup)]
    assert len({tuple(soup.w.tolist()) for soup in soups}) == len(soups) == 4
    for soup, *parts in zip(soups, *changes, strict=True):
        shares = torch.softmax(soup.w, 0)
        assert torch.allclose(soup.delta(), sum(c * part for c, part in zip(shares, parts, strict=True)))
        assert torch.linalg.matrix_rank(soup.delta()) == 4
        assert all(torch.linalg.matrix_rank(part) == 2 for part in parts)


def test_lorahub_also_pairs_factors_of_different_adapters() -> None:
    trial = Trial("lora_soups", "llama", SETTING, TARGETS)
    model = lorahub.apply(tiny.model("llama"), modules=2, r=2, alpha=3.0, targets=TARGETS)
    for index, one in enumerate(trial.inputs):
        lorahub.load(model, index, trial.of.restored(one))
    lorahub.weights(model).data.fill_(0.5)
    assert all(torch.linalg.matrix_rank(hub.delta()) == 2 for _, hub in lorahub.hubs(model))
