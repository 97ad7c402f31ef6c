"""TIES-Merging: trim the changes, elect a sign for each entry, average what agrees (yadav2023ties; code_ties).

    tau^_i = tau_i where |tau_i| is among the largest, else 0        the largest of the whole model
    gamma = sign(sum_i tau^_i),    theta = theta_0 + lambda mean{tau^_i : sign(tau^_i) = gamma}

Given: models that were fine-tuned from the same pretrained model. `combine` merges them into the model's weights.
Nothing is trained and nothing is added. An entry where the trimmed changes cancel exactly takes the sign that more
entries of the model have, as in the authors' code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from . import _merging, _recipe


def apply(
    model: nn.Module, *, tasks: int = 7, keep: float = 0.2, scale: float = 1.0, name: str = "ties_merging"
) -> nn.Module:
    """Freeze the model. Its weights stay the pretrained ones until `combine`."""
    _recipe.keep(model, name, tasks=tasks, keep=keep, scale=scale)
    return model


def combine(model: nn.Module, inputs: Sequence[_merging.Input], *, name: str = "ties_merging") -> nn.Module:
    """Merge fine-tuned models into the weights."""
    merge_into(_merging.own(model), inputs, **_merging.settings(model, inputs, name))
    return model


@torch.no_grad()
def merge_into(weights: Mapping[str, Tensor], inputs: Sequence[_merging.Input], keep: float, scale: float) -> None:
    """Merge the changes of all inputs, in three passes over the weights."""
    bounds = [bound(weights, given, keep) for given in inputs]
    more = balance(weights, inputs, bounds)
    majority = (more > 0) - (more < 0)
    for name, weight in weights.items():
        weight.add_(agreed(name, weight, inputs, bounds, majority), alpha=scale)


def agreed(
    name: str, weight: Tensor, inputs: Sequence[_merging.Input], bounds: Sequence[float], majority: int
) -> Tensor:
    """Return the mean of the trimmed changes of one weight that have the elected sign."""
    changes = weight.new_empty((len(inputs), *weight.shape))
    for row, given, least in zip(changes, inputs, bounds, strict=True):
        row.copy_(trimmed(_merging.change(given, name, weight), least))
    sign = changes.sum(0).sign_()
    sign.masked_fill_(sign == 0, majority)
    for row in changes:
        row.mul_(row * sign > 0)                    # what disagrees becomes zero
    count, total = sign.zero_(), changes.sum(0)
    for row in changes:
        count.add_(row != 0)
    return total.div_(count.clamp_(min=1))


def bound(weights: Mapping[str, Tensor], given: _merging.Input, keep: float) -> float:
    """Return the size from which a change is kept: so many of the model's changes are larger."""
    number = sum(weight.numel() for weight in weights.values())
    dropped = number - int(number * keep)
    if not dropped:
        return 0.0
    sizes = next(iter(weights.values())).new_empty(number)
    end = 0
    for name, weight in weights.items():
        begin, end = end, end + weight.numel()
        sizes[begin:end].copy_(_merging.change(given, name, weight).flatten().abs_())
    return float(sizes.kthvalue(dropped).values)


def trimmed(change: Tensor, least: float) -> Tensor:
    """Set the changes below a size to zero, in place."""
    return change.masked_fill_(change.abs() < least, 0)


def balance(weights: Mapping[str, Tensor], inputs: Sequence[_merging.Input], bounds: Sequence[float]) -> float:
    """Return how many more entries of the model have a positive sum of trimmed changes than a negative one."""
    found = 0.0
    for name, weight in weights.items():
        total = torch.zeros_like(weight)
        for given, least in zip(inputs, bounds, strict=True):
            total.add_(trimmed(_merging.change(given, name, weight), least))
        found += float(total.sign_().sum())
    return found


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Merge recorded models of two matrices; for the golden vectors."""
    weights, given = _merging.recorded(model, inputs)
    settings = _merging.settings(model, given, "ties_merging")
    bounds = [bound(weights, one, settings["keep"]) for one in given]
    found = {"bounds": torch.tensor(bounds), "balance": torch.tensor(balance(weights, given, bounds))}
    merge_into(weights, given, **settings)
    return {"output": weights["down"], "up": weights["up"], **found}
