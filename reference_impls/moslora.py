"""MoSLoRA: mixture-of-subspaces in low-rank adaptation (wu2024moslora; code_moslora).

    h = W_0 x + (alpha / r) B M A x

Trained: LoRA's A (r, d_in) and B (d_out, r), and a mixer M (r, r) between them. LoRA is the case in which M is the
identity. M starts at random like A; B starts at zero. At inference the product is added to W_0.
"""

import math

import torch
from torch import Tensor, nn

from . import _kit as kit
from . import lora


class MoSLoRA(lora.LoRA):
    """LoRA with a mixer between its factors."""

    def __init__(self, d_in: int, d_out: int, *, r: int, alpha: float, dropout: float):
        super().__init__(d_in, d_out, r=r, alpha=alpha, dropout=dropout)
        self.M = nn.Parameter(torch.empty(r, r))
        nn.init.kaiming_uniform_(self.M, a=math.sqrt(5))

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        low: Tensor = self.dropout(x) @ self.A.T @ self.M.T         # (..., d_in) -> (..., r)
        return y + self.scale * (low @ self.B.T)                    # (..., r) -> (..., d_out)

    def delta(self) -> Tensor:
        return self.B @ self.M @ self.A * self.scale                # (d_out, d_in)


def apply(
    model: nn.Module, *, r: int = 16, alpha: float = 32.0, dropout: float = 0.05,
    targets: tuple[str, ...] = (
        "attn.q", "attn.k", "attn.v", "xattn.q", "xattn.k", "xattn.v", "mlp.up", "mlp.down",
    ),
) -> nn.Module:
    """Freeze the model and put a mixed correction beside every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        kit.attach(site, "moslora", MoSLoRA(site.d_in, site.d_out, r=r, alpha=alpha, dropout=dropout))
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the corrections to the weights."""
    return kit.fold(model, "moslora")
