"""RoCoFT: one row trains one output of a module, and one column the effect of one input."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import rocoft

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("axis", ["row", "column"])
def test_only_the_first_outputs_or_inputs_are_affected(family: str, axis: str) -> None:
    model = rocoft.apply(tiny.model(family), r=2, axis=axis, train_bias=False, targets=("attn.q", "mlp.down"))
    shake(model)
    for site, child in kit.at_sites(model, "rocoft", rocoft.Trained):
        x = torch.eye(site.d_in).to(site.weight)
        change = child.after(x, torch.zeros(site.d_in, site.d_out).to(x)) != 0      # (d_in, d_out)
        part = change[:, :2] if axis == "row" else change[:2]
        assert part.all()
        assert change.sum() == part.sum()


def test_all_rows_and_biases_are_full_fine_tuning_of_a_module() -> None:
    model = rocoft.apply(tiny.model("bert"), r=tiny.model("bert").config.hidden_size, targets=("attn.v",))
    for site, child in kit.at_sites(model, "rocoft", rocoft.Trained):
        assert child.R is not None
        assert child.b is not None
        wanted, bias = torch.randn_like(site.weight), torch.randn(site.d_out).to(site.weight)
        child.R.data, child.b.data = wanted, bias
        x = torch.randn(3, site.d_in).to(wanted)
        assert torch.allclose(site.module(x), x @ wanted.T + bias)
