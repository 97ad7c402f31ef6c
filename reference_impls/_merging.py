"""What methods share that merge trained models or adapters.

An input maps the names of parameters to their values. Each is read when it is needed, so inputs may lie in files.
Methods that merge whole models change the pretrained weights in place, and add no tensor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from . import _kit as kit
from . import _recipe

Input = Mapping[str, Tensor]


def own(model: nn.Module) -> dict[str, Tensor]:
    """Return the pretrained weights of the model by name; tied ones once."""
    return {weight.name: weight.value for weight in kit.weights(model) if weight.pretrained}


def change(given: Input, name: str, weight: Tensor) -> Tensor:
    """Return the change of one weight in one input, as a new tensor."""
    return given[name].to(weight) - weight


def settings(model: nn.Module, inputs: Sequence[Input], name: str) -> dict[str, Any]:
    """Return the hyperparameters that `apply` kept, without the number of inputs, which is checked."""
    found = dict(_recipe.kept(model, name))
    tasks = found.pop("tasks")
    assert len(inputs) == tasks, f"found {len(inputs)} inputs, expected {tasks}"
    return found


@torch.no_grad()
def add(weights: Mapping[str, Tensor], inputs: Sequence[Input], scale: float) -> None:
    """Add the sum of the inputs' changes, times a number, to the weights."""
    for name, weight in weights.items():
        total = torch.zeros_like(weight)
        for given in inputs:
            total.add_(change(given, name, weight))
        weight.add_(total, alpha=scale)


def pair(host: kit.Child, name: str) -> tuple[str, str]:
    """Return the names of the factors of LoRA at the same place as a method's child; name: that of the method."""
    assert host.site is not None
    path = f"{host.site.path}.lora{host.attached.removeprefix(name)}"
    return f"{path}.A", f"{path}.B"


def shares(inputs: Sequence[Input], examples: Sequence[float] | None) -> list[float]:
    """Return the share of each input in the training examples; equal ones if their numbers are unknown."""
    numbers = [1.0] * len(inputs) if examples is None else examples
    assert len(numbers) == len(inputs), f"found {len(numbers)} numbers of examples, expected {len(inputs)}"
    return [number / sum(numbers) for number in numbers]


def adapters(
    host: kit.Child, name: str, inputs: Mapping[str, Tensor], prefix: str = ""
) -> list[dict[str, Tensor]]:
    """Return the LoRAs that a golden vector records for one weight, as checkpoints; name: that of the method."""
    names = pair(host, name)
    keys = [key.removeprefix(prefix) for key in inputs if key.startswith(f"{prefix}A ")]
    return [dict(zip(names, (inputs[f"{prefix}{k}"], inputs[f"{prefix}B{k[1:]}"]), strict=True)) for k in keys]


class Pair(kit.Child):
    """The factors of a merged adapter beside one weight of shape (d_out, d_in). Nothing of them is trained."""

    site: kit.Site

    def __init__(self, d_in: int, d_out: int, *, r: int, scale: float):
        super().__init__()
        self.A = nn.Parameter(torch.zeros(r, d_in), requires_grad=False)
        self.B = nn.Parameter(torch.zeros(d_out, r), requires_grad=False)
        self.scale = scale

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        low: Tensor = x @ self.A.T                                  # (..., d_in) -> (..., r)
        return y + self.scale * (low @ self.B.T)                    # (..., r) -> (..., d_out)

    def delta(self) -> Tensor:
        return self.scale * (self.B @ self.A)                       # (d_out, d_in)


def recorded(
    model: nn.Module, inputs: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
    """Return two weights of the model, and the inputs that a golden vector records for them."""
    weights = {role: kit.sites(model, [f"mlp.{role}"])[0].module.weight for role in ("up", "down")}
    number = sum(name.startswith("up ") for name in inputs)
    return weights, [{role: inputs[f"{role} {i}"] for role in weights} for i in range(number)]
