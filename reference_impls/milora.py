"""MiLoRA: minor singular components for LoRA (wang2024milora; code_milora#svd_init.py:initialize_lora_layer).

    W_0 = U S V^T,   s B_0 A_0 = the part of the r smallest singular values,   h = (W_0 - s B_0 A_0) x + s B A x

Trained: A (r, d_in) and B (d_out, r), the minor part of the weight, split evenly and divided by the root of
s = alpha / r. The principal part stays in the place of W_0. At inference the product is added to it.
"""

import torch
from torch import Tensor, nn

from . import _starts, lora


def minor(weight: Tensor, r: int, scale: float) -> tuple[Tensor, Tensor]:
    """B and A of the part of the r smallest singular values, with the root of the values each."""
    u, s, v = torch.linalg.svd(weight, full_matrices=False)
    root = (s[-r:] / scale).sqrt()
    return u[:, -r:] * root, root[:, None] * v[-r:]             # (d_out, r), (r, d_in)


def apply(
    model: nn.Module, *, r: int = 64, alpha: float = 64.0, dropout: float = 0.05,
    targets: tuple[str, ...] = (
        "attn.q", "attn.k", "attn.v", "xattn.q", "xattn.k", "xattn.v", "mlp.up", "mlp.down",
    ),
) -> nn.Module:
    """Freeze every targeted weight without its minor part, which is to be trained."""
    return _starts.apply(model, minor, r=r, alpha=alpha, dropout=dropout, targets=targets, name="milora")


def merge(model: nn.Module) -> nn.Module:
    """Add the trained part to the rest."""
    return lora.merge(model, name="milora")
