"""The bottleneck adapter that several methods share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from . import _kit as kit

__all__ = ["Bottleneck"]


class Bottleneck(kit.Child):
    """The adapter of Pfeiffer et al. after a linear layer: h <- h + W_up relu(W_down h + b_down) + b_up."""

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
