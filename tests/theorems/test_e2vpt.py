"""E2VPT: what is pruned has no effect, and the score of a whole vector is zero, since a norm follows it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from peftonomy import UsageError
from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import e2vpt

pytestmark = pytest.mark.torch
PIXELS = torch.randn(2, 3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def _logits(model: nn.Module) -> Tensor:
    logits: Tensor = model.eval()(pixel_values=PIXELS).logits
    return logits


def _model() -> nn.Module:
    torch.manual_seed(0)
    return e2vpt.apply(tiny.model("vit"), prompt_length=4, kv_length=2, pieces=6, pruned=0.5, pruned_pieces=0.5)


def _first(model: nn.Module) -> e2vpt.Prompt:
    return next(child for child in kit.attached(model, "e2vpt") if isinstance(child, e2vpt.Prompt))


def test_scaling_a_vector_changes_nothing_so_its_score_is_zero() -> None:
    model = _model()
    vectors, pieces = e2vpt.scores(model, (_logits(model).square().sum() for _ in range(1)))
    assert vectors.abs().max() < 1e-3 * pieces.abs().max(), "up to the epsilon of the norm"
    before = _logits(model)
    for child in kit.attached(model, "e2vpt"):
        for name, p in child.named_parameters():
            if name in "PD":
                p.data.mul_(100)
    assert torch.allclose(_logits(model), before, atol=1e-4)


def test_pruned_entries_have_no_effect_and_all_layers_share_them() -> None:
    model = _model()
    e2vpt.calibrate(model, (_logits(model).square().sum() for _ in range(2)))
    first = _first(model)
    assert int(first.M.sum()) == 2
    assert first.N.sum(1).tolist() == [4] * 4, "at least four pieces of a vector stay on"
    _logits(model).square().sum().backward()
    for child in kit.attached(model, "e2vpt"):
        for name, p in child.named_parameters():
            if name in "PD":
                assert p.grad is not None
                on = (p.grad != 0).unflatten(1, (2, 6))             # entry j of a vector belongs to piece j % 6
                assert torch.equal(on, (first.M[:, None] & first.N)[:, None].expand_as(on))
    before = _logits(model)
    for child in kit.attached(model, "e2vpt"):
        for name, p in child.named_parameters():
            if name in "PD":
                p.data[p.grad == 0] += 1
    assert torch.equal(_logits(model), before)


def test_the_smallest_scores_are_switched_off_with_their_signs() -> None:
    model = _model()
    e2vpt.prune(model, torch.tensor([0.1, -9.0, 3.0, -0.2]), torch.tensor([[5.0, -7.0, 1.0, 0.0, 2.0, 3.0]] * 4))
    assert _first(model).M.tolist() == [True, False, True, False]
    assert _first(model).N[0].tolist() == [True, False, True, False, True, True]


def test_the_same_vectors_are_keys_and_values() -> None:
    model = _model()
    for child in kit.attached(model, "e2vpt"):
        if isinstance(child, e2vpt.Keys):
            keys, values = child.keys_values()
            assert torch.equal(keys, values)
            assert keys.shape == (3, 2, 4)
            assert torch.equal(keys[1, 0], child.K[0, 4:8])


def test_other_models_are_refused() -> None:
    with pytest.raises(UsageError, match="a model of images alone was expected"):
        e2vpt.apply(tiny.model("bert"))
