"""DARE: drop most changes at random, rescale the others, then merge (yu2024dare; code_mergelm).

    delta_i = m_i * (theta_i - theta_0) / (1 - p),    m_i ~ Bernoulli(1 - p),    theta = theta_0 + lambda sum_i delta_i

Given: models that were fine-tuned from the same pretrained model. `combine` merges them into the model's weights.
Nothing is trained and nothing is added. With `average`, lambda is one by the number of models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from . import _merging, _recipe


def apply(
    model: nn.Module, *, tasks: int = 2, drop: float = 0.2, average: bool = True, scale: float = 1.0,
    name: str = "dare",
) -> nn.Module:  # fmt: skip
    """Freeze the model. Its weights stay the pretrained ones until `combine`."""
    _recipe.keep(model, name, tasks=tasks, drop=drop, average=average, scale=scale)
    return model


def combine(model: nn.Module, inputs: Sequence[_merging.Input], *, name: str = "dare") -> nn.Module:
    """Merge fine-tuned models into the weights."""
    merge_into(_merging.own(model), inputs, **_merging.settings(model, inputs, name))
    return model


def drawn(change: Tensor, drop: float) -> Tensor:
    """Draw the mask of the changes that stay."""
    return torch.empty_like(change, dtype=torch.bool).bernoulli_(1 - drop)


@torch.no_grad()
def merge_into(
    weights: Mapping[str, Tensor], inputs: Sequence[_merging.Input], drop: float, average: bool, scale: float,
    draw: Callable[[Tensor, float], Tensor] = drawn,
) -> None:  # fmt: skip
    """Add the sum or the average of the thinned changes to the weights."""
    for name, weight in weights.items():
        total = torch.zeros_like(weight)
        for given in inputs:
            change = _merging.change(given, name, weight)
            total.add_(change.mul_(draw(change, drop)).div_(1 - drop))
            del change
        weight.add_(total, alpha=1 / len(inputs) if average else scale)


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Merge recorded models of two matrices, with the recorded masks; for the golden vectors."""
    weights, given = _merging.recorded(model, inputs)
    masks = iter([inputs[f"mask {role} {i}"] for role in weights for i in range(len(given))])
    settings = _merging.settings(model, given, "dare")
    merge_into(weights, given, **settings, draw=lambda change, drop: next(masks))
    return {"output": weights["down"], "up": weights["up"]}
