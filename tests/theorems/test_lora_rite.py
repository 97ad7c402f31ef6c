"""LoRA-RITE: the product takes the same steps, however it is split into factors. With Adam it does not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import lora_rite

from ..knowledge import KB

pytestmark = pytest.mark.torch


def products(mix: Tensor, make: Any, steps: int = 6) -> list[Tensor]:
    """Train A and B, replaced by mix A and B mix^-1, on one problem. Return their products after each step."""
    torch.manual_seed(0)
    child = lora_rite.LoRARite(9, 7, r=3, alpha=3.0, dropout=0.0, clip=1.0, skip=0.0).double()
    x, wanted = torch.randn(20, 9).double(), torch.randn(20, 7).double()
    child.B.data = torch.randn(7, 3).double()
    child.A.data, child.B.data = mix @ child.A, child.B @ torch.linalg.inv(mix)
    step, found = make(child), []
    for _ in range(steps):
        child.zero_grad()
        (child.after(x, torch.zeros(20, 7).double()) - wanted).square().mean().backward()   # type: ignore[no-untyped-call]
        step()
        found.append(child.delta().detach().clone())
    return found


def rite(child: lora_rite.LoRARite) -> Any:
    own = lora_rite.Rite(nn.Sequential(), lr=0.05)
    own.pairs = [child]
    return torch.no_grad()(lambda: own.update({**own.param_groups[1], "eps": 0.0}))


def adam(child: lora_rite.LoRARite) -> Any:
    return torch.optim.Adam([child.A, child.B], lr=0.05).step


def test_the_products_steps_do_not_depend_on_the_factors() -> None:
    one = torch.eye(3).double()
    for mix in (10 * one, torch.tensor([[1.0, 2.0, 0.0], [0.0, -1.0, 0.5], [3.0, 0.0, 1.0]]).double()):
        pairs = list(zip(products(one, rite), products(mix, rite), strict=True))
        assert all(torch.allclose(a, b) for a, b in pairs)
        pairs = list(zip(products(one, adam), products(mix, adam), strict=True))
        assert not any(torch.allclose(a, b, rtol=0.05) for a, b in pairs)


def test_the_basis_turns_with_the_factors() -> None:
    """Without the rotation of the moments into the new basis, the steps would depend on the signs of a basis."""
    signs = torch.diag(torch.tensor([1.0, -1.0, 1.0])).double()
    pairs = list(zip(products(torch.eye(3).double(), rite), products(signs, rite), strict=True))
    assert all(torch.allclose(a, b) for a, b in pairs)


def test_a_bound_on_the_gradients_of_all_pairs_and_one_for_each() -> None:
    model = lora_rite.apply(tiny.model("llama"), r=2, targets=("attn.q",), clip=0.5, skip=3.0).train()
    children = [child for _, child in kit.at_sites(model, "lora_rite", lora_rite.LoRARite)]
    for number, child in enumerate(children):
        child.B.data.normal_()
        child.A.grad, child.B.grad = torch.randn_like(child.A), torch.randn_like(child.B) * (1e4 if not number else 1)
    (a, b), (c, d) = (lora_rite.unmagnified(child) for child in children[:2])
    assert not b.gradient.any()
    assert all(half.gradient.any() for half in (a, c, d))
    own = lora_rite.optimizer(model, lr=0.1)
    own.step()
    norm = torch.stack([half.gradient.square().sum() for half in (a, b, c, d)]).sum().sqrt()
    assert norm > 0.5
    v = own.state[children[1].B]["V"]
    assert torch.allclose(v, (0.5 / norm) ** 2 * d.gradient.T @ d.gradient / len(d.gradient))


def test_it_trains_and_keeps_as_much_as_adam_and_two_small_matrices() -> None:
    torch.manual_seed(0)
    model = lora_rite.apply(tiny.model("llama"), r=2, alpha=4.0, targets=("attn.q", "mlp.down"))
    own, losses = lora_rite.optimizer(model, lr=0.02), []
    for _ in range(6):
        loss = tiny.loss(model, "llama")
        losses.append(loss.item())
        loss.backward()
        own.step()
        own.zero_grad()
    assert losses[-1] < losses[0]
    asked = {"batch": 2, "seq": 8, "dtype": "float32", "targets": ["attn.q", "mlp.down"], "r": 2}
    ours, adams = (KB[name].memory(tiny.config("llama"), **asked).optimizer_states for name in ("lora_rite", "lora"))
    number = len(list(kit.at_sites(model, "lora_rite", lora_rite.LoRARite)))
    assert ours == adams + number * (4 * 2 * 2 * 2 - 2 * 4), "torch's Adam also counts steps"
