"""Tensors that have only sizes, and the storages that they hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["Storage", "Tensor"]


class Storage:
    """Bytes, how many hold them, and whether the forward pass made them. origin: what did, for those who look. group:
    the layers that count several times, if they made it."""

    __slots__ = ("bytes", "forward", "group", "holders", "origin")

    def __init__(self, size: Any, forward: bool, origin: str = "", group: Any = None):
        self.bytes, self.holders, self.forward, self.origin, self.group = size, 1, forward, origin, group


class Tensor:
    """Numbers of `width` bytes each, whether a gradient comes here (live), and what has come.

    key: of a parameter, which one it is; None for all others. hooked: what a method makes of its gradient. anew: if the
    tensor is not kept but made again for the backward pass, the most bytes alive while it is made; else 0. laid:
    whether its heads lie in memory as a product of matrices reads them.
    """

    __slots__ = ("anew", "bytes", "grad", "hooked", "key", "laid", "live", "shape", "storage", "width")

    def __init__(self, shape: Any, width: int, live: bool, storage: Storage | None = None, key: Any = None):
        self.shape, self.width, self.live, self.key = shape, width, live, key
        self.bytes = shape[0] * shape[1] * shape[2] * width
        self.storage = storage if storage is not None else Storage(self.bytes, False)
        self.grad: Storage | None = None
        self.hooked: Callable[[Storage], Storage] | None = None
        self.anew: Any = 0
        self.laid = False
