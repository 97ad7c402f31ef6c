"""Helpers of several probes: recorded batches as losses, and named tensors as one vector."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

__all__ = ["flat", "losses"]


def losses(model: nn.Module, inputs: Mapping[str, Tensor]) -> Iterator[Tensor]:
    """Yield the loss of each recorded batch: `input_ids` (batches, size, length), `labels` (batches, size)."""
    for ids, labels in zip(inputs["input_ids"], inputs["labels"], strict=True):
        yield model(input_ids=ids, labels=labels).loss


def flat(tensors: Mapping[str, Tensor]) -> Tensor:
    """Return all entries of the named tensors in one vector, in the order of their names."""
    return torch.cat([tensors[name].detach().flatten() for name in sorted(tensors)])
