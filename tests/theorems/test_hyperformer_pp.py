"""Hyperformer++: what it writes are adapters, a task is its embedding, and a new task costs nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm

from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import hyperformer_pp

from ..knowledge import KB

pytestmark = pytest.mark.torch


def adapted(family: str = "t5") -> nn.Module:
    torch.manual_seed(0)
    model = hyperformer_pp.apply(
        tiny.model(family), tasks=3, embedding=4, projected=5, hidden=6, bottleneck=2, train_norms=False
    )
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=0.4)
    return model


def source(model: nn.Module) -> hyperformer_pp.Hypernetworks:
    (found,) = (m for m in model.modules() if isinstance(m, hyperformer_pp.Hypernetworks))
    return found


def outputs(model: nn.Module, task: int) -> Tensor:
    source(model).task = task
    with torch.no_grad():
        return tiny.outputs(model, "t5")


def by_hand(model: nn.Module, task: int, stack: int, layer: int, place: int, h: Tensor) -> Tensor:
    """The adapter's output from the attached numbers alone."""
    state = {n.removeprefix("hyperformer_pp."): v for n, v in model.state_dict().items() if n.startswith("hyperf")}
    where = torch.cat([state["z_task"][task], state["l_layer"][layer], state[f"p_place.{stack}"][place]])
    mixed = torch.relu(state[f"mix.{stack}.0.weight"] @ where + state[f"mix.{stack}.0.bias"])
    mixed = state[f"mix.{stack}.2.weight"] @ mixed + state[f"mix.{stack}.2.bias"]
    i = (mixed - mixed.mean()) / (mixed.var(correction=0) + 1e-6).sqrt()
    i = i * state[f"norm.{stack}.weight"] + state[f"norm.{stack}.bias"]
    names = ("D", "d_", "U", "u_", "gain", "shift")
    down, b, up, c, gain, shift = (state[f"{n}.{stack}.weight"] @ i + state[f"{n}.{stack}.bias"] for n in names)
    z = gelu(h @ down.view(2, 16).T + b, approximate="tanh") @ up.view(16, 2).T + c
    return h + gain * layer_norm(z, (16,)) + shift


def test_every_spot_gets_the_adapter_of_its_task_layer_stack_and_place() -> None:
    """T5's layers: encoder 0, 1 and decoder 0, 1, 2 are the rows 0 to 4; place 0 is the feed-forward block."""
    model = adapted()
    h = torch.randn(3, 16, dtype=torch.float64)
    seen = set()
    for site, child in kit.at_sites(model, "hyperformer_pp", hyperformer_pp.Generated):
        stack = int(site.stack == "decoder")
        spot = stack, 2 * stack + (site.layer or 0), int(site.role == "attn.o")
        seen.add(spot)
        for task in (0, 2):
            source(model).task = task
            assert torch.allclose(child.after(h, h), by_hand(model, task, *spot, h))
    assert len(seen) == 10


def test_a_task_is_its_embedding() -> None:
    model = adapted()
    assert not torch.allclose(outputs(model, 0), outputs(model, 1))
    source(model).z_task.data[1] = source(model).z_task.data[0]
    assert torch.equal(outputs(model, 0), outputs(model, 1))


def test_a_tasks_loss_teaches_its_own_embedding_and_what_all_share() -> None:
    model = adapted()
    source(model).task = 1
    tiny.loss(model, "t5").backward()
    gradients = {n: p.grad for n, p in source(model).named_parameters()}
    assert [bool(row.any()) for row in gradients.pop("z_task")] == [False, True, False]
    assert all(bool(gradient.any()) for gradient in gradients.values())


def test_a_further_task_costs_one_embedding() -> None:
    few, more = (KB["hyperformer_pp"].cost("t5_base", tasks=tasks).trained for tasks in (8, 9))
    assert more - few == 64
    adapters = KB["sequential_adapter"].cost("t5_base", bottleneck=24, train_norms=False).trained
    assert adapters > 20_000 * (more - few)


def test_it_starts_quietly() -> None:
    """The written gains are small, where a norm of its own would start at one."""
    torch.manual_seed(0)
    model = hyperformer_pp.apply(tiny.model("t5"), bottleneck=3)
    h = torch.randn(50, 16, dtype=torch.float64)
    with torch.no_grad():
        for _, child in kit.at_sites(model, "hyperformer_pp", hyperformer_pp.Generated):
            assert 0 < (child.after(h, h) - h).square().mean().sqrt() < 0.2
