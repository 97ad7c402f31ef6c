"""SORSA: while the penalty is zero, the trained part is a singular value decomposition of its own product."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import sorsa

pytestmark = pytest.mark.torch


def _child(r: int = 3) -> tuple[torch.Tensor, sorsa.SORSA]:
    torch.manual_seed(0)
    weight = torch.randn(7, 5, dtype=torch.float64)
    return weight, sorsa.SORSA(weight, r=r, dropout=0.0).double()


def test_start_is_the_best_approximation_without_penalty() -> None:
    weight, child = _child()
    u, s, v = torch.linalg.svd(weight, full_matrices=False)
    assert torch.allclose(child.delta(), (u[:, :3] * s[:3]) @ v[:3])
    assert torch.allclose(torch.stack(child.off()), torch.zeros(2, dtype=torch.float64), atol=1e-12)


def test_the_values_are_singular_values_while_the_penalty_is_zero() -> None:
    _, child = _child()
    child.S.data = torch.tensor([0.5, -4.0, 2.0], dtype=torch.float64)
    turned = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64)).Q
    child.A.data, child.B.data = turned @ child.A, child.B @ turned.T
    assert torch.allclose(torch.stack(child.off()), torch.zeros(2, dtype=torch.float64), atol=1e-12)
    found = torch.linalg.svdvals(child.delta())
    assert torch.allclose(found[:3], torch.tensor([4.0, 2.0, 0.5], dtype=torch.float64))
    child.A.data[0] *= 1.5
    assert child.off()[0].item() == pytest.approx(1.5**2 - 1)
    assert not torch.allclose(torch.linalg.svdvals(child.delta())[:3], found[:3])


def test_the_penalty_is_the_mean_over_all_matrices_and_brings_the_vectors_back() -> None:
    model = sorsa.apply(tiny.model("llama"), r=3, targets=("attn.q", "mlp.down"))
    children = [child for _, child in kit.at_sites(model, "sorsa", sorsa.SORSA)]
    assert len({tuple(child.A.shape) for child in children}) > 1
    for child in children:
        child.A.data += 0.1 * torch.randn_like(child.A)
        child.B.data *= 1.2
    before = sorsa.penalty(model)
    assert before.item() == pytest.approx(sum(norm.item() for c in children for norm in c.off()) / len(children) / 2)
    before.backward()       # type: ignore[no-untyped-call]
    for child in children:
        assert child.S.grad is None
        for matrix in (child.A, child.B):
            assert matrix.grad is not None
            matrix.data -= 0.1 * matrix.grad
    assert sorsa.penalty(model) < before
