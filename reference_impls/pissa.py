"""PiSSA: principal singular values and singular vectors adaptation (meng2024pissa).

    W_0 = U S V^T,   s B A = U_r S_r V_r^T at the start,   h = (W_0 - U_r S_r V_r^T) x + s B A x,   s = alpha / r

Trained: A (r, d_in) = (S_r / s)^(1/2) V_r^T and B (d_out, r) = U_r (S_r / s)^(1/2), the principal part of the weight.
The rest of it stays, in the place of W_0, and is what W_0 gives again when the method is applied anew. At inference
the product is added to it. The paper has s = 1; that the singular values are divided by s is peft's. Its fast,
randomised decomposition is not offered here.
"""

import torch
from torch import Tensor, nn

from . import _starts, lora


def principal(weight: Tensor, r: int, scale: float) -> tuple[Tensor, Tensor]:
    """B and A of the best approximation of rank r, with the root of the singular values each."""
    u, s, v = torch.linalg.svd(weight, full_matrices=False)
    root = (s[:r] / scale).sqrt()
    return u[:, :r] * root, root[:, None] * v[:r]               # (d_out, r), (r, d_in)


def apply(
    model: nn.Module, *, r: int = 128, alpha: float = 128.0, dropout: float = 0.0,
    targets: tuple[str, ...] = ("attn.*", "xattn.*", "mlp.*"),
) -> nn.Module:
    """Freeze what is left of every targeted weight without its principal part, which is to be trained."""
    return _starts.apply(model, principal, r=r, alpha=alpha, dropout=dropout, targets=targets, name="pissa")


def merge(model: nn.Module) -> nn.Module:
    """Add the trained part to the rest."""
    return lora.merge(model, name="pissa")
