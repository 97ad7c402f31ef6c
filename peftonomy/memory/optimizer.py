"""Compute an optimizer's states for the tensors that it updates, and its temporary memory."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from .setting import STATE_BLOCK, Optimizer

__all__ = ["Trained", "Update", "update"]

COUNTER = 4
"""Bytes of the number of steps that torch's AdamW holds beside the moments of each tensor."""


class Trained(NamedTuple):
    """Equal tensors that are updated: their shape, the bytes per entry, and their number."""

    shape: tuple[int, ...]
    width: int
    number: int


class Update(NamedTuple):
    """Bytes of states that stay on the device, of states that may leave it, and of temporaries during the update."""

    states: int
    paged: int
    temporary: int


def update(optimizer: Optimizer, tensors: Iterable[Trained], pairs: Iterable[tuple[int, int]]) -> Update:
    """Return an optimizer's memory. pairs: the bytes of single tensors, each with those of the previous one."""
    states = total = temporary = 0
    for shape, width, number in tensors:
        numel = math.prod(shape)
        size = numel * width
        total += size * number
        states += number * _states(optimizer, shape, numel, size)
    for size, before in pairs:  # a root, a quotient, and the quotient of the tensor before
        temporary = max(temporary, 2 * size + before)
    if optimizer.foreach or not optimizer.moments:
        temporary = total if optimizer.moments else 0
    return Update(0, states, temporary) if optimizer.paged else Update(states, 0, temporary)


def _states(optimizer: Optimizer, shape: tuple[int, ...], numel: int, size: int) -> int:
    if optimizer.factored:  # rows and columns of a matrix in place of it, in float32
        return 4 * (numel // shape[-1] + numel // shape[-2] if len(shape) >= 2 else numel)
    if optimizer.eight_bit:
        return optimizer.moments * (numel + 4 * -(-numel // STATE_BLOCK))
    return optimizer.moments * size + (COUNTER if optimizer.moments else 0)
