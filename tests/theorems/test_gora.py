"""GoRA: the start is the step of gradient descent that a random factor allows, and the ranks follow importance."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from peftonomy import UsageError
from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import gora

pytestmark = pytest.mark.torch
TARGETS = ("attn.q", "mlp.up", "mlp.down")


def calibrated(step: float = 1e-3, min_rank: int = 1) -> nn.Module:
    torch.manual_seed(0)
    model = gora.apply(tiny.model("llama"), r=3, min_rank=min_rank, max_rank=6, alpha=6.0, step=step, targets=TARGETS)
    return gora.calibrate(model, (tiny.loss(model, "llama") for _ in range(2)))


def full_gradients() -> tuple[dict[str, torch.Tensor], float]:
    """The gradients of all weights of the plain model, and its loss."""
    free = tiny.model("llama").requires_grad_(True)
    loss = tiny.loss(free, "llama")
    loss.backward()
    return {name: p.grad for name, p in free.named_parameters() if p.grad is not None}, loss.item()


def test_the_start_is_the_nearest_product_to_a_step_against_the_gradient() -> None:
    gradients, before = full_gradients()
    model = calibrated()
    for site, child in kit.at_sites(model, "gora", gora.GoRA):
        gradient, rank = gradients[f"{site.path}.weight"], child.rank
        a = child.A[:rank].detach()
        nearest = gradient @ torch.linalg.pinv(a) @ a                       # of all B A with this A
        wanted = -1e-3 * (site.d_in / rank) ** 0.5 * nearest
        assert torch.allclose(child.delta(), wanted, atol=1e-6 * wanted.abs().max().item() + 1e-8, rtol=1e-3)
    assert tiny.loss(model, "llama").item() < before, "a step against the gradient lowers the loss"


def test_ranks_follow_importance_within_the_budget() -> None:
    gradients, _ = full_gradients()
    pairs = list(kit.at_sites(calibrated(), "gora", gora.GoRA))
    per_rank = [site.d_in + site.d_out for site, _ in pairs]
    importance = [(site.weight * gradients[f"{site.path}.weight"]).abs().mean().item() for site, _ in pairs]
    costs = [child.rank * size for (_, child), size in zip(pairs, per_rank, strict=True)]
    assert sum(costs) <= 3 * sum(per_rank)
    assert len({child.rank for _, child in pairs}) > 1, "the ranks differ"
    for one, cost, size in zip(importance, costs, per_rank, strict=True):
        share = 3 * sum(per_rank) * one / sum(importance)
        assert cost == max(1, min(6, round(share) // size)) * size


def test_the_least_rank_can_exceed_the_budget() -> None:
    pairs = list(kit.at_sites(calibrated(min_rank=3), "gora", gora.GoRA))
    assert all(3 <= child.rank <= 6 for _, child in pairs)
    assert sum(child.rank * (s.d_in + s.d_out) for s, child in pairs) > 3 * sum(s.d_in + s.d_out for s, _ in pairs)


def test_unused_rank_stays_zero_in_training_and_goes() -> None:
    model = calibrated()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for _ in range(3):
        tiny.loss(model, "llama").backward()
        optimizer.step()
        optimizer.zero_grad()
    ranks = [child.rank for _, child in kit.at_sites(model, "gora", gora.GoRA)]
    for _, child in kit.at_sites(model, "gora", gora.GoRA):
        assert not child.A[child.rank :].any()
        assert not child.B[:, child.rank :].any()
    before = tiny.outputs(model, "llama").detach()
    gora.finish(model)
    assert [len(child.A) for _, child in kit.at_sites(model, "gora", gora.GoRA)] == ranks
    assert torch.allclose(tiny.outputs(model, "llama"), before, atol=1e-6)


def test_losses_without_gradients_are_refused() -> None:
    torch.manual_seed(0)
    model = gora.apply(tiny.model("llama"), r=3, min_rank=1, max_rank=6, targets=TARGETS)
    with pytest.raises(UsageError, match="gora: all gradients are zero"):
        gora.calibrate(model, (0.0 * tiny.loss(model, "llama") for _ in range(1)))
