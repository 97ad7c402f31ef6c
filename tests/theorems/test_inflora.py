"""InfLoRA: whatever the second factor becomes, inputs of the earlier tasks give the same outputs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import inflora

pytestmark = pytest.mark.torch


def _run(model: nn.Module, x: Tensor) -> Iterator[Tensor]:
    for site, _ in kit.at_sites(model, "inflora", inflora.InfLoRA):
        yield site.module(x)


def _model(r: int = 3) -> tuple[nn.Module, Tensor, Tensor]:
    model = inflora.apply(tiny.model("llama"), r=r, targets=("attn.v",)).double()
    torch.manual_seed(0)
    d_in = next(kit.at_sites(model, "inflora", inflora.InfLoRA))[0].d_in
    few = torch.randn(3, d_in, dtype=torch.float64)
    return model, torch.randn(20, 3, dtype=torch.float64) @ few, torch.randn(20, d_in, dtype=torch.float64)


def test_the_second_task_leaves_the_inputs_of_the_first_alone() -> None:
    model, old, new = _model()
    memory: inflora.Memory | None = None
    for _ in range(2):                  # the first time stops one direction early
        memory = inflora.remember(model, _run(model, old), memory, threshold=1 - 1e-9)
    inflora.calibrate(inflora.next_task(model), _run(model, new), memory)
    for site, child in kit.at_sites(model, "inflora", inflora.InfLoRA):
        before, others = site.module(old), site.module(new)
        child.B.data.normal_()
        assert torch.allclose(site.module(old), before, atol=1e-8)
        assert not torch.allclose(site.module(new), others, atol=1e-3)


def test_the_first_factor_holds_the_main_directions_with_the_length_of_random_rows() -> None:
    model, _, new = _model()
    inflora.calibrate(model, _run(model, new))
    main = torch.linalg.svd(new)[2][:3]
    for _, child in kit.at_sites(model, "inflora", inflora.InfLoRA):
        assert torch.allclose(child.A @ child.A.T, torch.eye(3, dtype=torch.float64) / 3)
        assert torch.allclose((child.A @ main.T).abs(), torch.eye(3, dtype=torch.float64) / 3**0.5, atol=1e-6)


def test_the_memory_reaches_the_threshold_with_as_few_directions_as_possible() -> None:
    own = torch.diag(torch.tensor([4.0, 3.0, 2.0, 1.0]))                # squares: 16, 9, 4, 1 of 30
    first = inflora.extended(own[:, :0], own, 0.9)
    assert first.abs().tolist() == torch.eye(4)[:, :2].tolist(), "25 of 30; a third direction would reach 0.9"
    assert inflora.extended(first, own, 0.9).shape == (4, 3), "29 of 30"
    assert inflora.extended(first, own, 0.8).shape == (4, 2), "held already"
    assert inflora.extended(own[:, :0], own, 0.1).shape == (4, 1), "at least one"


def test_the_next_task_keeps_the_change_of_the_last() -> None:
    model, _, new = _model()
    inflora.calibrate(model, _run(model, new))
    for _, child in kit.at_sites(model, "inflora", inflora.InfLoRA):
        child.B.data.normal_()
    before = [child.delta() for _, child in kit.at_sites(model, "inflora", inflora.InfLoRA)]
    inflora.calibrate(inflora.next_task(model), _run(model, new))
    after = [child.delta() for _, child in kit.at_sites(model, "inflora", inflora.InfLoRA)]
    assert all(torch.allclose(a, b) for a, b in zip(after, before, strict=True))
    with pytest.raises(ValueError, match="do not have 999 directions"):
        inflora.apply(tiny.model("llama"), r=999)
