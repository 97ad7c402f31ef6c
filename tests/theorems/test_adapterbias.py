"""AdapterBias: every token of a layer moves along one line, by an amount of its own."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import adapterbias

pytestmark = pytest.mark.torch


def test_the_shift_of_all_tokens_has_rank_one() -> None:
    torch.manual_seed(0)
    model = adapterbias.apply(tiny.model("bert"))
    shake(model)
    [(site, child), *_] = kit.at_sites(model, "adapterbias", adapterbias.AdapterBias)
    x = torch.randn(9, site.d_in).to(child.w)
    shift = child.after(x, torch.zeros(9, site.d_out).to(child.w))
    assert int(torch.linalg.matrix_rank(shift)) == 1
    amounts = shift @ child.v / (child.v @ child.v)
    assert len(amounts.unique()) == 9, "each token has its own amount"
    child.w.data.zero_()            # without it, the same shift for all, which a bias expresses
    shift = child.after(x, torch.zeros(9, site.d_out).to(child.w))
    assert torch.equal(shift, shift[:1].expand_as(shift))
