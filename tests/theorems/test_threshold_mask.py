"""Threshold-Mask: bits over frozen weights, learned straight through the threshold."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import threshold_mask

from ..knowledge import KB

pytestmark = pytest.mark.torch
PAPER = ("attn.*", "mlp.*", "pooler")


def masks(model: nn.Module) -> list[threshold_mask.Mask]:
    return [child for _, child in kit.at_sites(model, "threshold_mask", threshold_mask.Mask)]


@pytest.mark.parametrize(("tau", "init_sparsity"), [(0.01, 0.05), (0.01, 0.5), (0.0, 0.2)])
def test_the_start_has_the_share_of_zeros_that_was_asked_for(tau: float, init_sparsity: float) -> None:
    torch.manual_seed(0)
    model = threshold_mask.apply(tiny.model("llama"), tau=tau, init_sparsity=init_sparsity, first_layer=0)
    bits = torch.cat([child.mask().flatten() for child in masks(model)])
    error = (init_sparsity * (1 - init_sparsity) / len(bits)) ** 0.5
    assert abs((bits == 0).double().mean() - init_sparsity) < 4 * error


def test_the_score_receives_the_gradient_of_the_bit() -> None:
    """dL/dS is dL/dM, which for a masked weight is dL/d(W M) times W; found by masking the weights by hand."""
    model = threshold_mask.apply(tiny.model("bert"), init_sparsity=0.4, first_layer=1, targets=PAPER)
    tiny.loss(model, "bert").backward()
    by_hand = tiny.model("bert")
    pairs = {c.site.path: c for c in masks(model)}
    weights = {path: by_hand.get_parameter(f"{path}.weight") for path in pairs}
    originals = {path: weight.detach().clone() for path, weight in weights.items()}
    with torch.no_grad():
        for path, child in pairs.items():
            weights[path].mul_(child.mask())
    tiny.loss(by_hand, "bert").backward()
    for path, child in pairs.items():
        gradient = weights[path].grad
        assert gradient is not None
        assert torch.allclose(getattr(child, child.tensor).grad, gradient * originals[path], atol=1e-10), path


def test_lower_layers_have_no_mask() -> None:
    model = threshold_mask.apply(tiny.model("bert"), first_layer=1, targets=PAPER)
    paths = {c.site.path for c in masks(model)}
    assert not any("layer.0" in path for path in paths)
    assert len(paths) == 7      # six matrices of the upper layer, and the pooler


def test_a_task_of_bert_base_is_nine_megabytes_of_bits() -> None:
    cost = KB["threshold_mask"].cost("bert_base", targets=PAPER)
    assert cost.trained == cost.stored_bits == 10 * (4 * 768 * 768 + 2 * 768 * 3072) + 768 * 768
    assert cost.stored == cost.served == 0
    assert cost.stored_bytes == cost.stored_bits // 8 == 8_921_088
