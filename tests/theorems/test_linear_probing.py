"""Linear probing: the features stay, and what autograd keeps does not grow with the depth of the model."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from peftonomy import UsageError
from peftonomy.conformance import tiny
from reference_impls import linear_probing

from ..knowledge import KB

pytestmark = pytest.mark.torch


def saved(model: nn.Module, family: str) -> int:
    """The number of entries that autograd saves for the backward pass."""
    sizes: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        tiny.loss(model, family)
    return sum(sizes)


def test_a_classifier_is_trained_on_the_features_of_the_plain_model() -> None:
    model = linear_probing.apply(tiny.model("bert"))
    assert not any(p.requires_grad for p in model.parameters())
    head = [p for name, p in model.named_parameters() if name.startswith("classifier.")]
    for parameter in head:
        parameter.requires_grad_(True)
    before = model.get_submodule("bert")(**tiny.batch("bert")).pooler_output.detach()
    features = before.unsqueeze(0)
    assert saved(model, "bert") < 40 * features.numel()
    tiny.loss(model, "bert").backward()
    torch.optim.SGD(head, lr=0.1).step()
    assert torch.equal(model.get_submodule("bert")(**tiny.batch("bert")).pooler_output, before)
    assert not torch.allclose(tiny.outputs(model, "bert"), tiny.plain_outputs("bert"))


def test_only_an_output_layer_of_its_own_is_trained() -> None:
    for family, names in (("llama", {"lm_head.weight"}), ("t5", set()), ("gpt2", set())):
        model = linear_probing.apply(tiny.model(family))
        assert {name for name, p in model.named_parameters() if p.requires_grad} == names, family


def test_a_task_with_labels_counts_its_head_apart() -> None:
    for labels in (2, 100):
        cost = KB["linear_probing"].cost("vit_base", task="image_cls", num_labels=labels)
        assert (cost.trained, cost.stored, cost.served, cost.head) == (0, 0, 0, 769 * labels)
    found = KB["linear_probing"].memory("vit_base", task="image_cls", num_labels=100, batch=8)
    full = KB["full_fine_tuning"].memory("vit_base", task="image_cls", num_labels=100, batch=8)
    assert found.trained == 76_900
    assert found.kept < full.kept / 90


def test_without_a_head_it_is_refused() -> None:
    for model, task in (("bert_base", "none"), ("gpt2", "causal_lm")):
        with pytest.raises(UsageError, match="linear_probing finds nothing to act on"):
            KB["linear_probing"].cost(model, task=task)
