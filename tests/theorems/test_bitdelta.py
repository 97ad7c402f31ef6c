"""BitDelta: signs and their scale are the best change of one bit, and the distilled scales come closer."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from peftonomy.conformance import tiny
from peftonomy.conformance.checks import Saved
from peftonomy.conformance.trial import KB
from reference_impls import _kit as kit
from reference_impls import _simulate, bitdelta

pytestmark = pytest.mark.torch


def fine(family: str, size: float = 0.1) -> nn.Module:
    """The tiny model with every parameter changed."""
    model = tiny.model(family)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return model


def compressed(family: str) -> nn.Module:
    return bitdelta.combine(bitdelta.apply(tiny.model(family)), [fine(family).state_dict()])


@pytest.mark.parametrize("family", ["llama", "gpt2", "t5"])
def test_no_other_signs_and_no_other_scale_are_closer_to_the_change(family: str) -> None:
    model, target, plain = bitdelta.merge(compressed(family)), fine(family), tiny.plain(family)
    weights = [*bitdelta.matrices(plain)]
    assert len(weights) >= 8
    for weight in weights:
        change = target.get_parameter(weight.name) - weight.value
        found = model.get_parameter(weight.name) - weight.value
        scale = (change * change.sign()).sum() / change.numel()         # least squares onto the signs
        assert torch.allclose(found, scale * change.sign(), atol=1e-12)
        assert (change - found).norm() < change.norm()
    others = {n for n, _ in plain.named_parameters()} - {w.name for w in weights}
    own = {w.name for w in kit.weights(plain) if w.pretrained}
    assert all(torch.equal(model.get_parameter(n), target.get_parameter(n)) for n in others & own)


def test_distillation_of_the_scales_brings_the_outputs_closer() -> None:
    model, target = compressed("llama"), tiny.outputs(fine("llama"), "llama").detach()
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.002)
    errors: list[Tensor] = []
    for _ in range(20):
        optimiser.zero_grad()
        errors.append(((tiny.outputs(model, "llama") - target) ** 2).mean())
        errors[-1].backward()
        optimiser.step()
    assert errors[-1] < 0.95 * errors[0]
    assert sum(p.requires_grad for p in model.parameters()) == 14


def test_an_entry_that_did_not_change_gets_the_scale_too() -> None:
    child = bitdelta.Delta(torch.zeros(1, 4), transposed=False)
    with torch.no_grad():
        child.take(torch.tensor([[0.0, -3.0, 0.0, 1.0]]))
    assert child.M.tolist() == [[True, False, True, True]]
    assert child.alpha.item() == 1.0


def test_a_large_table_of_embeddings_takes_the_declared_bytes() -> None:
    """In the tiny models a matrix of a layer takes more."""
    kind, settings = tiny.CONFIGS["bert"]
    model = tiny.built(kind, {**settings, "vocab_size": 300})
    given = [Saved(model.state_dict())]
    taken = _simulate.taken(model, partial(bitdelta.combine, bitdelta.apply(model), given))
    combines = KB["bitdelta"].entry.combines
    assert combines is not None
    assert taken == combines.passes[2].temporary({"numel": 300 * settings["hidden_size"], "width": 8})
