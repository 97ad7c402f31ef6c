"""DoRA: the rows of the weight that it amounts to are as long as `m` says, and the norms pass no gradient on."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import dora

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_rows_are_as_long_as_said(family: str) -> None:
    model = dora.apply(tiny.model(family), r=2)
    shake(model)
    wanted = [(site, child.m.detach().abs()) for site, child in kit.at_sites(model, "dora", dora.DoRA)]
    dora.merge(model)
    for site, lengths in wanted:
        assert torch.allclose(site.weight.norm(dim=1), lengths)


def test_the_gradient_is_that_with_the_norms_held_constant() -> None:
    """With m and the norms fixed, B has LoRA's gradient times the gain of each row."""
    torch.manual_seed(0)
    model = dora.apply(tiny.model("llama"), r=2, alpha=2.0, dropout=0.0, targets=("attn.v",))
    shake(model)
    site, child = next(kit.at_sites(model, "dora", dora.DoRA))
    x, g = torch.randn(5, site.d_in).double(), torch.randn(5, site.d_out).double()
    (child.after(x, x @ site.weight.T) * g).sum().backward()
    gain = (child.m / child.direction().norm(dim=1)).detach()
    assert child.B.grad is not None
    assert torch.allclose(child.B.grad, gain[:, None] * (g.T @ (x @ child.A.T)))
