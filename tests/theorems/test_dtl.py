"""DTL: no gradient enters the layers before the first addition, and the sum is linear in what the links have read."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from peftonomy import UsageError
from peftonomy.conformance import tiny
from peftonomy.conformance.trial import shake
from reference_impls import _kit as kit
from reference_impls import dtl

pytestmark = pytest.mark.torch
PIXELS = torch.randn(2, 3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def _states(model: nn.Module) -> list[Tensor]:
    """The input of every layer and the output of the last."""
    states: list[Tensor] = []
    layers = [layer.module for layer in kit.blocks(model, "layer")]
    handles = [module.register_forward_pre_hook(lambda _, args: states.append(args[0])) for module in layers]
    handles.append(layers[-1].register_forward_hook(lambda _, args, h: states.append(h)))
    model(pixel_values=PIXELS)
    for handle in handles:
        handle.remove()
    return states


@pytest.mark.parametrize("first", [0, 1])
def test_gradients_stay_out_of_the_layers_before_the_first_addition(first: int) -> None:
    model = dtl.apply(tiny.model("vit"), first_added=first)
    shake(model)
    states = _states(model)
    assert [state.requires_grad for state in states] == [i > first for i in range(len(states))]
    states[-1].sum().backward()
    assert all(p.grad is not None for child in kit.attached(model, "dtl") for p in child.parameters())


@pytest.mark.parametrize("side", [3, 4])
def test_the_sum_of_all_links_is_added_behind_the_last_layer(side: int) -> None:
    plain = _states(tiny.model("vit"))
    model = dtl.apply(tiny.model("vit"), first_added=1, beta=3.0, kernel=side)
    shake(model)
    found = _states(model)[-1] - plain[-1]
    links = [child for child in kit.attached(model, "dtl") if isinstance(child, dtl.Link)]
    r = sum((x @ link.A.T @ link.B.T for x, link in zip(plain, links, strict=False)), torch.zeros(()))
    z = r * torch.sigmoid(3 * r)
    assert torch.allclose(found[:, 0], z[:, 0], atol=1e-6), "the class token is not filtered"
    kernel = links[0].side.K[:, 0]
    before, behind = (side - 1) // 2, side // 2     # an even filter has one row and one column more behind
    image = nn.functional.pad(z[:, 1:].unflatten(1, (3, 3)), (0, 0, before, behind, before, behind))
    wanted = sum(
        (image[:, i : i + 3, j : j + 3] * kernel[:, i, j] for i in range(side) for j in range(side)), torch.zeros(())
    )
    assert torch.allclose(found[:, 1:], wanted.flatten(1, 2), atol=1e-6)


def test_other_models_are_refused() -> None:
    with pytest.raises(UsageError, match="a model of images alone was expected"):
        dtl.apply(tiny.model("bert"), first_added=1)
