"""Hooks on whole layers of any `transformers` model, and the adapter that several methods share.

A layer gives its hidden states alone or, in T5, first in a tuple: `on_layer_output` sees to both.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.utils.hooks import RemovableHandle

from . import _kit as kit

__all__ = ["Bottleneck", "on_layer_output"]


class Bottleneck(kit.Child):
    """The adapter of Pfeiffer et al.: h <- h + W_up relu(W_down h + b_down) + b_up, behind one linear map."""

    def __init__(self, d: int, *, bottleneck: int):
        super().__init__()
        self.W_down = nn.Parameter(0.02 * torch.randn(bottleneck, d))
        self.b_down = nn.Parameter(torch.zeros(bottleneck))
        self.W_up = nn.Parameter(0.02 * torch.randn(d, bottleneck))
        self.b_up = nn.Parameter(torch.zeros(d))

    def delta(self, h: Tensor) -> Tensor:
        z = torch.relu(linear(h, self.W_down, self.b_down))         # (..., d) -> (..., bottleneck)
        return linear(z, self.W_up, self.b_up)                      # (..., bottleneck) -> (..., d)

    def after(self, _: Tensor, h: Tensor) -> Tensor:
        return h + self.delta(h)                                    # (..., d)


def on_layer_output(layer: nn.Module, act: Callable[[Tensor], Tensor]) -> RemovableHandle:
    """Put `act`, a bound method of a module, behind the hidden states that `layer` returns."""
    return layer.register_forward_hook(partial(_after, act))


def _after(act: Callable[[Tensor], Tensor], layer: nn.Module, args: Any, output: Any) -> Any:
    if isinstance(output, tuple):
        return act(output[0]).to(output[0].dtype), *output[1:]
    return act(output).to(output.dtype)
