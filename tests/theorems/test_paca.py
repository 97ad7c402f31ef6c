"""PaCA: r columns of a weight are trained, and training keeps r numbers of the input for each position."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import paca

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_only_the_chosen_columns_change(family: str) -> None:
    model = paca.apply(tiny.model(family), r=3, alpha=4.0, targets=("attn.q", "mlp.down"))
    pretrained = {s.path + s.role: s.weight.clone() for s, _ in kit.at_sites(model, "paca", paca.Columns)}
    shake(model)
    columns = {s.path + s.role: (s, child.J) for s, child in kit.at_sites(model, "paca", paca.Columns)}
    paca.merge(model)
    for key, (site, chosen) in columns.items():
        changed = (site.weight != pretrained[key]).all(0)
        assert changed.nonzero().flatten().tolist() == sorted(set(chosen.tolist()))
        assert changed.sum() == 3
        assert (site.weight == pretrained[key])[:, ~changed].all()


def test_gradient_needs_the_chosen_inputs_only() -> None:
    model = paca.apply(tiny.model("bert"), r=2, alpha=4.0, targets=("attn.v",))
    [(site, child), *_] = kit.at_sites(model, "paca", paca.Columns)
    x = torch.randn(5, site.d_in).to(child.P)
    saved: list[Tensor] = []

    def keep(t: Tensor) -> Tensor:
        saved.append(t)
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        child.after(x, torch.zeros(5, site.d_out).to(x)).sum().backward()
    assert max(t.numel() for t in saved if t.is_floating_point()) == 5 * 2
    assert child.P.grad is not None
    assert torch.allclose(child.P.grad, child.scale * x[:, child.J].sum(0).expand_as(child.P))
