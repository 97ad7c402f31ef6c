"""L-LoRA: a tangent, so that tasks add up; and because LoRA starts at zero, one factor of it never moves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import l_lora, lora, lora_fa

pytestmark = pytest.mark.torch


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def applied(family: str = "llama", shaken: bool = True) -> nn.Module:
    torch.manual_seed(0)
    model = l_lora.apply(tiny.model(family), r=2, dropout=0.0)
    if shaken:
        shake(model)
    return model


def children(model: nn.Module) -> list[l_lora.LinearLoRA]:
    return [child for _, child in kit.at_sites(model, "l_lora", l_lora.LinearLoRA)]


def outputs(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return tiny.outputs(model, "llama")


def test_what_the_tangent_leaves_out_is_of_second_order() -> None:
    """Around any start, a step of half the size leaves out a quarter; exactly the product of the two steps."""
    torch.manual_seed(0)
    x, start, step = draw(5, 6), (draw(2, 6), draw(10, 2)), (draw(2, 6), draw(10, 2))

    def left_out(size: float) -> Tensor:
        a, b = (s + size * d for s, d in zip(start, step, strict=True))
        return x @ a.T @ b.T - l_lora.tangent(x, start, (a, b))

    assert torch.allclose(left_out(1.0), x @ step[0].T @ step[1].T)
    assert torch.allclose(left_out(0.5), left_out(1.0) / 4)


def test_the_first_factor_has_no_gradient() -> None:
    model = applied()
    for child in children(model):
        child.A.requires_grad_(True)
    tiny.loss(model, "llama").backward()
    for child in children(model):
        assert child.A.grad is not None
        assert child.A.grad.abs().max() == 0
        assert child.B.grad is not None
        assert child.B.grad.abs().min() > 0


def test_away_from_the_zero_start_the_first_factor_would_move() -> None:
    """The test above could fail: around another start both factors have a gradient."""
    torch.manual_seed(0)
    x, start = draw(5, 6), (draw(2, 6), draw(10, 2))
    now = draw(2, 6).requires_grad_(), draw(10, 2).requires_grad_()
    l_lora.tangent(x, start, now).square().sum().backward()
    assert all(n.grad is not None and n.grad.abs().min() > 0 for n in now)


def test_it_is_lora_fa_at_the_start_and_after_every_step() -> None:
    ours = applied(shaken=False)
    theirs = lora_fa.apply(tiny.model("llama"), r=2, alpha=32.0, targets=("attn.q", "attn.v"))
    for mine, (_, other) in zip(children(ours), kit.at_sites(theirs, "lora_fa", lora_fa.LoRAFA), strict=True):
        other.A.data.copy_(mine.A)
    optimisers = [torch.optim.SGD([p for p in m.parameters() if p.requires_grad], lr=0.05) for m in (ours, theirs)]
    for _ in range(3):
        for model, optimiser in zip((ours, theirs), optimisers, strict=True):
            optimiser.zero_grad()
            tiny.loss(model, "llama").backward()
            optimiser.step()
        assert torch.allclose(outputs(ours), outputs(theirs))
    assert not torch.allclose(outputs(ours), outputs(tiny.model("llama")), atol=1e-3)


def said(child: Any, x: Tensor) -> Tensor:
    added: Tensor = child.after(x, x.new_zeros(len(x), child.B.shape[0]))
    return added.detach()


def tasks(n: int = 3) -> list[list[Tensor]]:
    torch.manual_seed(1)
    return [[draw(*child.B.shape) for child in children(applied())] for _ in range(n)]


@pytest.mark.parametrize("scale", [0.3, 1.0])
def test_what_fused_modules_say_is_the_sum_of_what_each_says(scale: float) -> None:
    given, x = tasks(), draw(5, 18)
    alone = [[said(child, x) for child in children(l_lora.fuse(applied(), [task], 1.0))] for task in given]
    fused = [said(child, x) for child in children(l_lora.fuse(applied(), given, scale))]
    for total, *parts in zip(fused, *alone, strict=True):
        assert torch.allclose(total, scale * torch.stack(parts).sum(0))


def test_the_same_arithmetic_on_lora_leaves_mixed_products() -> None:
    """Adding up factors that both moved does not add up what the modules say."""
    torch.manual_seed(2)
    x, start = draw(5, 6), lora.LoRA(6, 10, r=2, alpha=2.0, dropout=0.0).double()
    steps = [(0.5 * draw(2, 6), draw(10, 2)) for _ in range(2)]

    def at(a: Tensor, b: Tensor) -> Tensor:
        return x @ (start.A.detach() + a).T @ b.T

    together = at(steps[0][0] + steps[1][0], steps[0][1] + steps[1][1])
    assert not torch.allclose(together, at(*steps[0]) + at(*steps[1]), atol=0.1)


def test_one_task_fused_is_itself_and_none_is_the_base() -> None:
    [task] = tasks(1)
    model = applied()
    with torch.no_grad():
        for child, vector in zip(children(model), task, strict=True):
            child.B.copy_(vector)
    wanted = outputs(model)
    again = l_lora.fuse(applied(), [l_lora.vectors(model)], 1.0)
    assert torch.equal(outputs(again), wanted)
    nothing = l_lora.fuse(applied(), [task], 0.0)
    assert torch.allclose(outputs(nothing), outputs(tiny.model("llama")))
