"""AdaMix: what averaging the copies preserves, and what the random draws are."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import adamix

pytestmark = pytest.mark.torch


def mixture(*, share_up: bool) -> adamix.Mixture:
    torch.manual_seed(0)
    child = adamix.Mixture(6, bottleneck=4, n_experts=3, share_up=share_up)
    shake(child)
    return child


def routes(child: adamix.Mixture, x: Tensor, linear: bool) -> Iterator[Tensor]:
    """What each choice of copies adds to its input."""
    act = (lambda z: z) if linear else nn.functional.gelu
    downs = list(zip(child.copies("D"), child.copies("d"), strict=True))
    ups = list(zip(child.copies("U"), child.copies("u"), strict=True))
    for (w, b), (v, c) in itertools.product(downs, ups):
        yield act(x @ w.T + b) @ v.T + c


@pytest.mark.parametrize("share_up", [True, False])
def test_the_merged_module_is_the_mean_over_all_routes_where_they_are_linear(
    share_up: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    child, x = mixture(share_up=share_up).eval(), torch.randn(5, 6)
    bent = torch.stack([*routes(child, x, linear=False)]).mean(dim=0)
    assert not torch.allclose(child.after(x, x) - x, bent, atol=1e-3), "an activation does not commute with a mean"
    monkeypatch.setattr(adamix, "gelu", lambda z: z)
    straight = torch.stack([*routes(child, x, linear=True)])
    assert len(straight) == (3 if share_up else 9)
    assert torch.allclose(child.after(x, x) - x, straight.mean(dim=0), atol=1e-5)
    assert straight.std(dim=0).min() > 1e-3


def test_training_draws_one_route_and_every_route_comes() -> None:
    child, x = mixture(share_up=False).train(), torch.randn(5, 6)
    wanted = [*routes(child, x, linear=False)]
    seen = set()
    for _ in range(100):
        added = child.after(x, x) - x
        seen |= {i for i, route in enumerate(wanted) if torch.allclose(added, route, atol=1e-5)}
    assert seen == set(range(9))


def adapted() -> nn.Module:
    torch.manual_seed(0)
    model = adamix.apply(tiny.model("bert"), bottleneck=4, n_experts=3)
    shake(model)
    return model


def test_passes_disagree_while_training_and_agree_afterwards() -> None:
    model = adapted().train()
    torch.manual_seed(1)
    first, second = (tiny.outputs(model, "bert") for _ in range(2))
    assert adamix.consistency(first, second) > 1e-4
    adamix.finish(model)
    first, second = (tiny.outputs(model, "bert") for _ in range(2))
    assert adamix.consistency(first, second) == 0


def test_consistency_brings_the_passes_together() -> None:
    model = adapted().train()
    torch.manual_seed(1)
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
    losses = []
    for _ in range(40):
        optimiser.zero_grad()
        loss = adamix.consistency(tiny.outputs(model, "bert"), tiny.outputs(model, "bert"))
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < 0.3 * sum(losses[:10])


def test_consistency_by_hand() -> None:
    p, q = torch.tensor([0.2, 0.8]), torch.tensor([0.5, 0.5])
    both = (p * (p / q).log()).sum() + (q * (q / p).log()).sum()
    assert torch.isclose(adamix.consistency(p.log(), q.log() + 3), both / 2)


def test_a_copy_that_was_not_drawn_stays_where_it_is() -> None:
    model = adapted().train()
    child = next(c for c in kit.attached(model, "adamix") if isinstance(c, adamix.Mixture))
    tiny.loss(model, "bert").backward()
    drawn = [bool(p.grad.abs().sum() > 0) for p in child.D.parameters() if p.grad is not None]
    assert sum(drawn) == 1
