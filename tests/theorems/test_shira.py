"""SHiRA: as many numbers as LoRA of rank one, at full rank; what it adds can be taken off again."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import shira

pytestmark = pytest.mark.torch


def test_high_rank_from_few_entries() -> None:
    model = shira.apply(tiny.model("gpt2"), r=3)
    shake(model)
    for site, child in kit.at_sites(model, "shira", shira.SHiRA):
        delta = child.delta()
        assert int((delta != 0).sum()) == 3 * (site.d_in + site.d_out)
        assert torch.linalg.matrix_rank(delta) > 3


def test_merging_writes_the_chosen_entries_only() -> None:
    before, after = tiny.model("bert"), shira.apply(tiny.model("bert"), r=2)
    shake(after)
    shira.merge(after)
    for old, new in zip(kit.sites(before, ("attn.q",)), kit.sites(after, ("attn.q",)), strict=True):
        assert int((old.weight != new.weight).sum()) == 2 * (old.d_in + old.d_out)
