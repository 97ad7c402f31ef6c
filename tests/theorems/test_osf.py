"""OSF: gradients, and steps of plain gradient descent, have no part in the frozen directions; Adam's do."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import osf

pytestmark = pytest.mark.torch


@pytest.mark.parametrize(("optimiser", "stays"), [(torch.optim.SGD, True), (torch.optim.Adam, False)])
def test_steps_in_the_subspace(optimiser: type[torch.optim.Optimizer], stays: bool) -> None:
    model = osf.apply(tiny.model("llama"), effective_rank=0.5, targets=("attn.q", "mlp.down"))
    steps = optimiser([p for p in model.parameters() if p.requires_grad], lr=0.01)      # type: ignore[call-arg]
    for _ in range(3):
        steps.zero_grad()
        tiny.loss(model, "llama").backward()
        steps.step()
    for site, child in kit.at_sites(model, "osf", osf.OSF):
        u, s, v = torch.linalg.svd(site.weight.detach(), full_matrices=False)           # of the frozen part
        k = int((s > 1e-9).sum())
        assert k == osf.frozen(site.d_in, site.d_out, 0.5)
        leaks = (u[:, :k].T @ child.U).norm() + (v[:k] @ child.V.T).norm()
        assert bool(leaks < 1e-8) is stays
