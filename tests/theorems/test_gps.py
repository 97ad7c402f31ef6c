"""GPS: every neuron learns, each with the same number of weights, wherever the gradients are largest."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import _sparse as sparse
from reference_impls import fish_mask, gps

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("family", ["vit", "gpt2"])
def test_each_output_has_its_own_k_largest_gradients(family: str) -> None:
    model = gps.apply(tiny.model(family), k=3)
    gps.calibrate(model, [tiny.loss(model, family)])
    masks = sparse.of(model, "gps").masks
    plain = tiny.model(family)
    tiny.loss(plain, family).backward()
    for site in kit.sites(plain, ("attn.*", "mlp.*")):
        gradient = site.module.weight.grad
        assert gradient is not None
        mask, gradient = masks[f"{site.path}.weight"], gradient.abs()
        if site.transposed:
            mask, gradient = mask.T, gradient.T
        smallest = gradient.sort(dim=1, descending=True).values[:, 2:3]
        assert torch.equal(mask, gradient >= smallest)


def test_no_neuron_is_left_out_as_in_a_ranking_of_the_whole_model() -> None:
    model = gps.apply(tiny.model("vit"), k=1)
    gps.calibrate(model, [tiny.loss(model, "vit")])
    mine = sparse.of(model, "gps").masks
    count, whole = sum(int(m.sum()) for m in mine.values()), sum(w.value.numel() for w in kit.weights(model))
    other = fish_mask.apply(tiny.model("vit"), kept=count / whole)
    fish_mask.calibrate(other, [tiny.loss(other, "vit")])
    theirs = sparse.of(other, "fish_mask").masks
    assert all(m.flatten(1).any(dim=1).all() for m in mine.values())
    assert not all(theirs[name].flatten(1).any(dim=1).all() for name in mine)


def test_opposite_batches_cancel() -> None:
    """The gradients are added before their absolute value is taken."""
    found = []
    for pair in (False, True):
        model = gps.apply(tiny.model("vit"), k=1)
        losses = [tiny.loss(model, "vit")]
        if pair:
            losses += [sign * 100 * tiny.outputs(model, "vit").pow(2).mean() for sign in (1, -1)]
        gps.calibrate(model, losses)
        found.append(sparse.of(model, "gps").masks)
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
