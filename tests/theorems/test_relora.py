"""ReLoRA: restarts leave the function as it is, and every one lets the weights change by a further low rank."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import relora

pytestmark = pytest.mark.torch
TARGETS = ("attn.q", "mlp.down")


def children(model: nn.Module) -> list[relora.ReLoRA]:
    return [child for _, child in kit.at_sites(model, "relora", relora.ReLoRA)]


def made(pruned: float = 0.999) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A model with restarts after every third step, and its optimizer."""
    torch.manual_seed(0)
    model = relora.apply(tiny.model("llama"), r=2, dropout=0.0, restart_every=3, pruned=pruned, targets=TARGETS)
    return model, torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    tiny.loss(model, "llama").backward()
    optimizer.step()
    optimizer.zero_grad()


def ranks(steps: int) -> tuple[list[int], int]:
    """The ranks of the weights' changes after some steps, and the number of entries that the optimizer keeps."""
    model, optimizer = made()
    old = [site.weight.detach().clone() for site, _ in kit.at_sites(model, "relora", relora.ReLoRA)]
    for number in range(1, steps + 1):
        step(model, optimizer)
        relora.restart(model, optimizer, number)
    kept = sum(
        optimizer.state[p][name].numel() for c in children(model) for p in (c.A, c.B) for name in relora.MOMENTS
    )  # fmt: skip
    sites = [site for site, _ in kit.at_sites(model, "relora", relora.ReLoRA)]
    relora.merge(model)
    changes = [site.weight.detach() - before for site, before in zip(sites, old, strict=True)]
    return [int(torch.linalg.matrix_rank(change, rtol=1e-6)) for change in changes], kept


def test_the_rank_of_the_change_grows_with_every_restart_and_the_states_do_not() -> None:
    (first, states), (second, again), (third, last) = ranks(3), ranks(5), ranks(8)
    assert set(first) == {2}
    assert set(second) == {4}
    assert set(third) == {6}
    assert states == again == last


def test_a_restart_changes_no_output_and_empties_the_moments_of_the_pairs_alone() -> None:
    model, optimizer = made(pruned=1.0)
    for _ in range(4):
        step(model, optimizer)
    norm = next(w.value for w in kit.weights(model) if w.role == "norm.final")
    moments = [optimizer.state[norm][name].clone() for name in relora.MOMENTS]
    before, moved = tiny.outputs(model, "llama").detach(), [child.delta().detach() for child in children(model)]
    assert all(delta.any() for delta in moved)
    assert not relora.restart(model, optimizer, 3), "in the first cycle and at its end there is no restart"
    assert relora.restart(model, optimizer, 4)
    assert torch.allclose(tiny.outputs(model, "llama"), before, atol=1e-5)
    for child in children(model):
        assert child.A.any()
        assert not child.B.any()
        assert not any(optimizer.state[p][name].any() for p in (child.A, child.B) for name in relora.MOMENTS)
    assert all(torch.equal(optimizer.state[norm][name], old) for name, old in zip(relora.MOMENTS, moments, strict=True))


@pytest.mark.parametrize("by_magnitude", [False, True])
def test_pruning_keeps_a_share_of_the_moments(by_magnitude: bool) -> None:
    torch.manual_seed(0)
    moment = torch.randn(100, 40)
    mask = relora.kept(moment, 0.9, by_magnitude)
    assert mask.float().mean() == pytest.approx(0.1, abs=0.02)
    if by_magnitude:
        assert moment[mask].abs().min() > moment[~mask].abs().max()


def test_a_pair_that_starts_at_zero_learns_nothing_before_a_restart() -> None:
    """The authors' wrapper also starts A at zero."""
    model, optimizer = made()
    for child in children(model):
        child.A.data.zero_()
    for _ in range(4):
        step(model, optimizer)
    assert not any(child.A.any() or child.B.any() for child in children(model))
    relora.restart(model, optimizer, 4)
    tiny.loss(model, "llama").backward()
    gradients = [child.B.grad for child in children(model)]
    assert all(g is not None and g.any() for g in gradients)
