"""AdapterDrop: below n the model is the pretrained one; one robust set of adapters serves at every n."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor, nn

from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import adapterdrop

pytestmark = pytest.mark.torch


def states(model: nn.Module) -> list[Tensor]:
    """What every layer of the tiny LLaMA gives out."""
    ids = torch.arange(3, 10)[None]
    with torch.no_grad():
        return list(model(input_ids=ids, output_hidden_states=True).hidden_states)


def test_the_layers_below_are_the_pretrained_ones_for_every_task() -> None:
    plain = states(tiny.model("llama"))
    for seed in range(2):       # two tasks: one run of the first layer serves both
        torch.manual_seed(seed)
        model = adapterdrop.apply(tiny.model("llama"), bottleneck=5, n_drop=1)
        shake(model)
        found = states(model)
        assert torch.equal(found[1], plain[1])
        assert not torch.allclose(found[2], plain[2])


def test_no_gradient_is_carried_below_the_first_adapter() -> None:
    model = adapterdrop.apply(tiny.model("llama"), bottleneck=3, n_drop=1)
    layers = [block.module for block in kit.blocks(model, "layer")]
    seen: dict[int, bool] = {}
    for i, layer in enumerate(layers):
        layer.register_forward_hook(lambda m, args, out, i=i: seen.update({i: out.requires_grad}))
    tiny.loss(model, "llama").backward()
    assert seen == {0: False, 1: True}


def copied(robust: nn.Module, n_drop: int) -> nn.Module:
    special = adapterdrop.apply(tiny.model("t5"), bottleneck=4, n_drop=n_drop)
    state = {n: p for n, p in robust.named_parameters() if ".adapterdrop." in n}
    for name, value in special.named_parameters():
        if ".adapterdrop." in name:
            value.data.copy_(state[name])
    return special


@pytest.mark.parametrize("n_drop", [0, 1, 2])
def test_one_robust_set_serves_as_the_specialised_one_of_every_n(n_drop: int) -> None:
    torch.manual_seed(0)
    robust = adapterdrop.apply(tiny.model("t5"), bottleneck=4, n_drop=n_drop, robust=True)
    shake(robust)
    with torch.no_grad():
        found, wanted = (tiny.outputs(m, "t5") for m in (robust, copied(robust, n_drop)))
        other = tiny.outputs(copied(robust, (n_drop + 1) % 3), "t5")
    assert torch.allclose(found, wanted)
    assert not torch.allclose(found, other)


def test_training_draws_every_n_alike_and_evaluation_none() -> None:
    torch.manual_seed(0)
    model = adapterdrop.apply(tiny.model("t5"), bottleneck=2, n_drop=1, robust=True).train()
    (start,) = (m for m in model.modules() if isinstance(m, adapterdrop.Start))
    drawn: Counter[int] = Counter()
    for _ in range(900):
        start.draw(model, ())
        drawn[start.n] += 1
    assert set(drawn) == {0, 1, 2}
    assert all(abs(count - 300) < 5 * (900 * 2 / 9) ** 0.5 for count in drawn.values())
    model.eval()
    tiny.outputs(model, "t5")
    assert start.n == 1


def test_a_dropped_adapter_has_no_say_and_a_zero_gradient() -> None:
    torch.manual_seed(0)
    model = adapterdrop.apply(tiny.model("t5"), bottleneck=4, n_drop=0, robust=True).train()
    shake(model)
    (start,) = (m for m in model.modules() if isinstance(m, adapterdrop.Start))
    loss = tiny.loss(model, "t5")
    while start.n != 1:
        loss = tiny.loss(model, "t5")
    loss.backward()
    for child in kit.attached(model, "adapterdrop"):
        if isinstance(child, adapterdrop.Droppable):
            assert bool((child.b_up.grad == 0).all()) == (child.layer < 1)
