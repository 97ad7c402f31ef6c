"""Task arithmetic: add what fine-tuning changed, task by task (ilharco2023task; code_task_vectors).

    tau_i = theta_i - theta_0,    theta = theta_0 + lambda sum_i tau_i

Given: models that were fine-tuned from the same pretrained model. `combine` adds their changes to the model's weights.
Nothing is trained and nothing is added. The merged weights take the place of the pretrained ones.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from . import _merging, _recipe


def apply(model: nn.Module, *, tasks: int = 2, scale: float = 0.8, name: str = "task_arithmetic") -> nn.Module:
    """Freeze the model. Its weights stay the pretrained ones until `combine`."""
    _recipe.keep(model, name, tasks=tasks, scale=scale)
    return model


def combine(model: nn.Module, inputs: Sequence[_merging.Input], *, name: str = "task_arithmetic") -> nn.Module:
    """Add the changes of fine-tuned models to the weights."""
    _merging.add(_merging.own(model), inputs, **_merging.settings(model, inputs, name))
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Merge recorded models of two matrices; for the golden vectors."""
    weights, given = _merging.recorded(model, inputs)
    _merging.add(weights, given, **_merging.settings(model, given, "task_arithmetic"))
    return {"output": weights["down"], "up": weights["up"]}
