"""Delta-LoRA: the weight follows every step of the product, and all steps together telescope."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import delta_lora, lora

pytestmark = pytest.mark.torch
TARGETS = ("attn.q", "attn.v")


def children(model: nn.Module) -> list[delta_lora.DeltaLoRA]:
    return [child for _, child in kit.at_sites(model, "delta_lora", delta_lora.DeltaLoRA)]


def trained(steps: int, **settings: float) -> tuple[nn.Module, list[list[Tensor]]]:
    """A model after some steps of Adam, and the product B A of every site after each of them, step 0 included."""
    model = tiny.model("llama")
    torch.manual_seed(0)
    delta_lora.apply(model, r=2, alpha=4.0, targets=TARGETS, **settings)  # type: ignore[arg-type]
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.02)
    products = [[(c.B @ c.A).detach() for c in children(model)]]
    for step in range(1, steps + 1):
        optimiser.zero_grad()
        tiny.loss(model, "llama").backward()
        optimiser.step()
        delta_lora.propagate(model, step)
        products.append([(c.B @ c.A).detach() for c in children(model)])
    return model, products


def test_the_weights_move_as_in_the_loop_of_the_paper() -> None:
    """The same training, written down with plain LoRA on a model whose weights are changed in place."""
    plain = tiny.model("llama")
    torch.manual_seed(0)
    lora.apply(plain, r=2, alpha=4.0, targets=TARGETS)
    pairs = list(kit.at_sites(plain, "lora", lora.LoRA))
    optimiser = torch.optim.Adam([p for p in plain.parameters() if p.requires_grad], lr=0.02)
    for step in range(1, 9):
        before = [(c.B @ c.A).detach() for _, c in pairs]
        optimiser.zero_grad()
        tiny.loss(plain, "llama").backward()
        optimiser.step()
        for (site, child), old in zip(pairs, before, strict=True):
            if step > 3:
                with torch.no_grad():
                    site.weight.add_(1.5 * (4.0 / 2) * (child.B @ child.A - old))
    model, _ = trained(8, ratio=1.5, start=3)
    unmoved, _ = trained(8, ratio=0.0, start=3)
    with torch.no_grad():
        wanted = tiny.outputs(plain, "llama")
        assert torch.allclose(tiny.outputs(model, "llama"), wanted, atol=1e-5)
        assert not torch.allclose(tiny.outputs(unmoved, "llama"), wanted, atol=1e-2)
        assert torch.allclose(tiny.outputs(delta_lora.merge(model), "llama"), wanted, atol=1e-5)


def test_nothing_moves_before_the_start_and_then_by_one_difference() -> None:
    model, products = trained(4, ratio=0.7, start=4)
    assert all(not child.change.any() for child in children(model))
    model, products = trained(5, ratio=0.7, start=4)
    for i, child in enumerate(children(model)):
        assert child.change.any()
        assert torch.allclose(child.change, 0.7 * 2.0 * (products[5][i] - products[4][i]))


@pytest.mark.parametrize("start", [0, 6])
def test_all_steps_together_are_one_difference_of_rank_two_r(start: int) -> None:
    model, products = trained(20, ratio=0.7, start=start)
    for i, child in enumerate(children(model)):
        assert torch.allclose(child.change, 0.7 * 2.0 * (products[-1][i] - products[start][i]))
        rank = torch.linalg.matrix_rank(child.change, rtol=1e-9)
        assert rank == (2 if start == 0 else 4)


def test_neither_gradient_nor_optimiser_state_of_the_weights_size() -> None:
    model, _ = trained(3, ratio=1.0, start=0)
    for site, child in kit.at_sites(model, "delta_lora", delta_lora.DeltaLoRA):
        assert site.module.weight.grad is None
        assert child.change.grad is None
        assert not child.change.requires_grad
