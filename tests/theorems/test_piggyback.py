"""Piggyback: the first network is the pretrained one, and a step switches off what its gradient calls for."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import piggyback

pytestmark = pytest.mark.torch


def test_one_step_switches_off_the_weights_whose_product_with_their_gradient_is_large() -> None:
    """A score falls from `scale` to `tau` if lr dL/dW W is at least their difference; found without masks."""
    model, plain = piggyback.apply(tiny.model("llama")), tiny.model("llama")
    assert torch.equal(tiny.outputs(model, "llama"), tiny.plain_outputs("llama"))
    tiny.loss(plain, "llama").backward()
    pairs = list(kit.at_sites(model, "piggyback", piggyback.Mask))
    weights = [plain.get_parameter(f"{site.path}.weight") for site, _ in pairs]
    products = [(weight.grad * weight).detach() for weight in weights if weight.grad is not None]
    edge = torch.cat([product.flatten() for product in products]).sort().values[-500:-498].mean().item()
    tiny.loss(model, "llama").backward()
    torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=0.005 / edge).step()
    assert edge > 0
    for (_, child), product in zip(pairs, products, strict=True):
        assert torch.equal(child.mask() == 0, product > edge)
    assert sum(int((child.mask() == 0).sum()) for _, child in pairs) == 499


def test_a_score_at_the_threshold_is_off() -> None:
    child = piggyback.Mask(3, 1, tau=0.5, scale=1.0)
    with torch.no_grad():
        child.get_parameter("S").copy_(torch.tensor([[0.49, 0.5, 0.51]]))
    assert child.mask().tolist() == [[0, 0, 1]]
    with pytest.raises(ValueError, match="above the threshold"):
        piggyback.Mask(3, 1, tau=0.5, scale=0.5)


def test_tasks_share_a_backbone_that_no_training_changes() -> None:
    model = piggyback.apply(tiny.model("bert"))
    own = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    optimiser = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=0.01)
    for _ in range(3):
        optimiser.zero_grad()
        tiny.loss(model, "bert").backward()
        optimiser.step()
    assert not torch.allclose(tiny.outputs(model, "bert"), tiny.plain_outputs("bert"))
    assert all(torch.equal(model.get_parameter(name), value) for name, value in own.items())
