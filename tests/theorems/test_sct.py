"""SCT: only the chosen channels change behind the attention, and the classes of the task decide which."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from peftonomy import UsageError
from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import sct

pytestmark = pytest.mark.torch


def salient(model: nn.Module) -> list[sct.Salient]:
    return [child for child in kit.attached(model, "sct") if isinstance(child, sct.Salient)]


def test_the_state_behind_the_attention_changes_in_the_chosen_channels_only() -> None:
    """The norm's input and the residual sum around the feed-forward block carry the same change."""
    model = sct.apply(tiny.model("vit"), channels=3)
    sct.calibrate(model, (tiny.loss(model, "vit") for _ in range(1)))
    shake(model)
    layer, child = kit.blocks(model, "layer")[0].module, salient(model)[0]
    plain = kit.blocks(tiny.plain("vit"), "layer")[0].module
    x = torch.randn(1, 10, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    inputs: list[Tensor] = []
    handles = [
        one.get_submodule("layernorm_after").register_forward_hook(lambda _, args, __: inputs.append(args[0]))
        for one in (plain, layer)
    ]
    with torch.no_grad():
        plain(x)
        found = layer(x)
        before, after = inputs
        change = after - before
        chosen = torch.zeros(12, dtype=torch.bool).index_fill(0, child.J, True)
        assert (change[..., chosen].abs() > 1e-6).all()
        assert not change[..., ~chosen].any()
        assert torch.allclose(change[..., child.J], before[..., child.J] @ child.A.T + child.b)
    for handle in handles:
        handle.remove()
    kit.detach(model, "sct")
    with torch.no_grad():
        mlp = layer.get_submodule("mlp")(layer.get_submodule("layernorm_after")(after))
    assert torch.allclose(found, after + mlp)


def test_a_class_counts_as_much_as_any_other() -> None:
    """A channel that is large in one small class wins over one that is a little larger in a large class."""
    model = sct.apply(tiny.model("vit"), channels=1)
    child, states = salient(model)[0], torch.zeros(10, 3, 12, dtype=torch.float64)
    states[:9, 1:, 4], states[9, 1:, 7], states[:, 0] = 1.0, 2.0, 100.0     # the class token does not count
    labels = torch.tensor([0] * 9 + [1])
    aware, blind = sct.Scores(), sct.Scores()
    aware.labels = labels
    for scores in (aware, blind):
        scores.see(child, states)
    assert blind.largest(child, 1).item() == 4
    states[9, 1:, 7] = 3.1                                                  # 3.1 against the square root of 9
    again = sct.Scores()
    again.labels = labels
    again.see(child, states)
    assert again.largest(child, 1).item() == 7
    assert aware.largest(child, 1).item() == 4


def test_labels_reach_the_choice() -> None:
    """They are those that the model is given, in as many batches as it takes."""
    model = sct.apply(tiny.model("vit"), channels=2)
    images, labels = tiny.batch("vit")["pixel_values"], torch.tensor([0, 1, 1, 2])
    chosen = []
    for given, size in (({"labels": labels}, 4), ({"labels": labels}, 2), ({}, 4)):
        whole = {**given, "pixel_values": images}
        parts = [{name: value[i : i + size] for name, value in whole.items()} for i in (0, 2)]
        sct.calibrate(model, (model(**part).logits.sum() for part in parts[: 4 // size]))
        chosen.append([child.J.tolist() for child in salient(model)])
    assert chosen[0] == chosen[1]


def test_other_models_are_refused() -> None:
    with pytest.raises(UsageError, match="a model of images alone was expected"):
        sct.apply(tiny.model("bert"))
