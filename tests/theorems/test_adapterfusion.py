"""AdapterFusion: starts at the mean of its adapters, never touches them, and finds the one that a task needs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import adapterfusion, pfeiffer_adapter
from reference_impls._bottleneck import Bottleneck

pytestmark = pytest.mark.torch
FAMILY = "bert"


def source(seed: int) -> nn.Module:
    """A model with an adapter of some task, far from its start."""
    torch.manual_seed(seed)
    model = pfeiffer_adapter.apply(tiny.model(FAMILY), bottleneck=6)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=0.4)
    return model


def fused(sources: list[nn.Module]) -> nn.Module:
    torch.manual_seed(9)
    model = adapterfusion.apply(tiny.model(FAMILY), adapters=len(sources), bottleneck=6)
    return adapterfusion.adopt(model, sources)


def fusions(model: nn.Module) -> list[adapterfusion.Fusion]:
    return [child for child in kit.attached(model, "adapterfusion") if isinstance(child, adapterfusion.Fusion)]


def test_fusing_equal_adapters_with_the_identity_is_that_adapter() -> None:
    one = source(0)
    model = fused([one] * 3)
    for fusion in fusions(model):
        fusion.V.data = torch.eye(len(fusion.V), dtype=torch.float64)
    assert torch.allclose(tiny.outputs(model, FAMILY), tiny.outputs(one, FAMILY))


def test_it_starts_near_the_mean_of_the_adapters() -> None:
    sources = [source(seed) for seed in range(3)]
    fusion = fusions(fused(sources))[0]
    adapters = [next(m for m in s.modules() if isinstance(m, Bottleneck)) for s in sources]
    h = torch.randn(5, 12, dtype=torch.float64)
    mean = torch.stack([a.delta(h) for a in adapters]).mean(0)
    assert torch.allclose(fusion.delta(h), mean, atol=0.05 * mean.abs().max().item())
    assert not torch.allclose(fusion.delta(h), adapters[0].delta(h), atol=0.05 * mean.abs().max().item())


def test_the_attention_over_adapters_by_hand() -> None:
    sources = [source(seed) for seed in range(3)]
    fusion = fusions(fused(sources))[0]
    for parameter in (fusion.Q, fusion.q, fusion.K, fusion.k, fusion.V):
        parameter.data.normal_(std=0.5)
    h = torch.randn(12, dtype=torch.float64)
    z = [next(m for m in s.modules() if isinstance(m, Bottleneck)).delta(h) for s in sources]
    shares = torch.stack([(fusion.Q @ h + fusion.q) @ (fusion.K @ each + fusion.k) for each in z]).softmax(0)
    wanted = sum(share * (fusion.V @ each) for share, each in zip(shares, z, strict=True))
    assert torch.allclose(fusion.delta(h), wanted)


def test_the_key_bias_cancels_and_the_query_bias_does_not() -> None:
    fusion = fusions(fused([source(seed) for seed in range(3)]))[0]
    h = torch.randn(5, 12, dtype=torch.float64)
    before = fusion.delta(h)
    fusion.k.data.normal_(std=2.0)
    assert torch.allclose(fusion.delta(h), before)
    fusion.q.data.normal_(std=2.0)
    assert not torch.allclose(fusion.delta(h), before)


def test_the_second_stage_finds_the_adapter_that_the_task_needs_and_leaves_all_as_they_were() -> None:
    sources = [source(seed) for seed in range(4)]
    model = fused(sources)
    with torch.no_grad():
        wanted = tiny.outputs(sources[2], FAMILY)
    frozen = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.02)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        error = (tiny.outputs(model, FAMILY) - wanted).square().mean()
        (error + adapterfusion.regulariser(model)).backward()
        optimiser.step()
        losses.append(error.item())
    assert losses[-1] < 0.05 * losses[0]
    assert all(torch.equal(p, frozen[n]) for n, p in model.named_parameters() if n in frozen)
    h = torch.randn(400, 12, dtype=torch.float64)
    with torch.no_grad():
        shares = torch.stack([f.weights(h, f.outputs(h)).mean(0) for f in fusions(model)]).mean(0)
    assert shares.argmax() == 2
    assert shares[2] > 0.3          # on states that it never saw


def test_the_regulariser_is_zero_at_the_identity_alone() -> None:
    model = fused([source(0), source(1)])
    assert adapterfusion.regulariser(model) < 1e-9
    fusion = fusions(model)[0]
    fusion.V.data[0, 0] = 3.0
    assert torch.allclose(adapterfusion.regulariser(model), torch.tensor(0.04, dtype=torch.float64), atol=1e-6)
