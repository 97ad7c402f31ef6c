"""Bi-AdaptFormer: a matrix acts by two values, which a bit per entry and two numbers give back exactly."""

from __future__ import annotations

import statistics

import pytest
import torch
from torch import Tensor, nn

from peftonomy import UsageError
from peftonomy.conformance import tiny
from peftonomy.conformance.trial import shake
from reference_impls import _kit as kit
from reference_impls import adaptformer, bi_adapter

pytestmark = pytest.mark.torch
PIXELS = torch.randn(2, 3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def _logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model.eval()(pixel_values=PIXELS).logits
    return logits


def test_two_values_and_a_bit_for_each_entry() -> None:
    assert pytest.approx(statistics.NormalDist().inv_cdf(0.75)) == bi_adapter.LEVEL
    model = bi_adapter.apply(tiny.model("vit"), bottleneck=4)
    shake(model)
    wanted = _logits(model)
    matrices: list[Tensor] = []
    for child in kit.attached(model, "bi_adapter"):
        for name in ("W_down", "W_up"):
            w = child.get_parameter(name).detach()
            found = bi_adapter.rounded(w)
            values = w.mean() + w.std() * bi_adapter.LEVEL * torch.tensor([-1.0, 1.0]).to(w)
            assert torch.allclose(found, torch.where(w > w.mean(), values[1], values[0]))
            assert torch.equal(found > w.mean(), w > w.mean()), "the larger value where the entry is above the mean"
            matrices.append(found)
    bi_adapter.finish(model)
    kept = [buffer for child in kit.attached(model, "bi_adapter") for _, buffer in child.named_buffers()]
    assert sum(b.numel() for b in kept if b.dtype == torch.bool) == sum(m.numel() for m in matrices)
    assert sum(b.numel() for b in kept if b.dtype != torch.bool) == 2 * len(matrices)
    assert torch.allclose(_logits(model), wanted, atol=1e-5)


def test_it_is_adaptformer_with_the_rounded_matrices() -> None:
    ours = bi_adapter.apply(tiny.model("vit"), bottleneck=4, scale=0.5)
    shake(ours)
    theirs = adaptformer.apply(tiny.model("vit"), bottleneck=4, scale=0.5)
    for child, other in zip(kit.attached(ours, "bi_adapter"), kit.attached(theirs, "adaptformer"), strict=True):
        for name in ("W_down", "W_up"):
            other.get_parameter(name).data.copy_(bi_adapter.rounded(child.get_parameter(name)))
    assert torch.allclose(_logits(ours), _logits(theirs), atol=1e-6)


def test_gradients_pass_the_rounding() -> None:
    w = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    weight = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (bi_adapter.rounded(w) * weight).sum().backward()
    n = (w - w.mean()) / (w.std() + 1e-5)
    q = bi_adapter.LEVEL * torch.sign(n.detach())
    straight = (w - w.mean()) * (w.std() / (w.std() + 1e-5)) + (q - n.detach()) * w.std() + w.mean()
    [wanted] = torch.autograd.grad((straight * weight).sum(), w)
    assert w.grad is not None
    assert torch.allclose(w.grad, wanted)


def test_other_models_are_refused() -> None:
    with pytest.raises(UsageError, match="a model of images alone was expected"):
        bi_adapter.apply(tiny.model("bert"))
