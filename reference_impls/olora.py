"""OLoRA: orthonormal low-rank adaptation (buyukakyuz2024olora).

    W_0 = Q R,   B = Q_r and A = R_r at the start,   h = (W_0 - s Q_r R_r) x + s B A x,   s = alpha / r

Trained: B (d_out, r), whose columns start orthonormal, and A (r, d_in), the first r columns and rows of the QR
decomposition. What is left of the weight stays in the place of W_0, and is what W_0 gives again when the method is
applied anew. At inference the product is added to it. As in peft the scale acts on what is taken out, too, so that
at alpha / r = 1 it is the projection on the first r columns of the weight.
"""

import torch
from torch import Tensor, nn

from . import _starts, lora


def orthonormal(weight: Tensor, r: int, scale: float) -> tuple[Tensor, Tensor]:
    """B and A: what the weight's first r columns span, and the weight within it."""
    q, upper = torch.linalg.qr(weight)
    return q[:, :r], upper[:r]                                  # (d_out, r), (r, d_in)


def apply(
    model: nn.Module, *, r: int = 32, alpha: float = 16.0, dropout: float = 0.05,
    targets: tuple[str, ...] = ("attn.q", "attn.v", "xattn.q", "xattn.v"),
) -> nn.Module:
    """Freeze what is left of every targeted weight without its part along an orthonormal basis, which is trained."""
    return _starts.apply(model, orthonormal, r=r, alpha=alpha, dropout=dropout, targets=targets, name="olora")


def merge(model: nn.Module) -> nn.Module:
    """Add the trained part to the rest."""
    return lora.merge(model, name="olora")
