"""A mixture of LoRA experts beside one weight, weighed by a router for every token."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from . import _kit as kit


class Mixture(kit.Child):
    """The experts beside one weight of shape (d_out, d_in). A subclass sets how A and the router G start."""

    def __init__(self, d_in: int, d_out: int, *, r: int, alpha: float, experts: int, dropout: float = 0.0):
        super().__init__()
        self.G = nn.Parameter(torch.empty(experts, d_in))
        self.A = nn.Parameter(torch.empty(experts, r, d_in))
        self.B = nn.Parameter(torch.zeros(experts, d_out, r))
        self.scale = alpha / r
        self.dropout = nn.Dropout(dropout)

    def shares(self, x: Tensor) -> Tensor:
        """Return the weights of the experts for each token, (..., experts)."""
        return torch.softmax(x @ self.G.T, dim=-1)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        omega = self.shares(x)
        low: Tensor = self.dropout(x) @ self.A.flatten(0, 1).T                              # (..., experts * r)
        each: Tensor = low.unflatten(-1, self.A.shape[:2])                                  # (..., experts, r)
        weighed = (omega.unsqueeze(-1) * each).flatten(-2)                                  # (..., experts * r)
        up = self.B.transpose(1, 2).flatten(0, 1)                                           # (experts * r, d_out)
        mixed: Tensor = y + self.scale * (weighed @ up)
        return mixed
