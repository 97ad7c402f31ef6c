"""MiCA: minor component adaptation (rudiger2026mica).

    W_0 = U S V^T,   B = the r columns of U with the smallest singular values,   h = W_0 x + (alpha / r) B A x

Trained: A (r, d_in), which starts at zero. B (d_out, r) is computed from the weight and stays, so that outputs change
only in directions of which the weight makes the least use. At inference the product is added to W_0. A weight with more
outputs than inputs has directions that it never uses; as in peft those are not among the candidates.
"""

import torch
from torch import Tensor, nn

from . import _kit as kit
from . import lora


class MiCA(lora.LoRA):
    """LoRA that writes into the weight's minor directions."""

    def __init__(self, weight: Tensor, *, r: int, alpha: float, dropout: float):
        d_out, d_in = weight.shape
        if r > min(d_in, d_out):
            raise ValueError(f"rank {r} is larger than that of a weight of {d_out} x {d_in}")
        super().__init__(d_in, d_out, r=r, alpha=alpha, dropout=dropout)
        nn.init.zeros_(self.A)
        self.B = nn.Parameter(torch.linalg.svd(weight, full_matrices=False).U[:, -r:].clone(), requires_grad=False)


def apply(
    model: nn.Module, *, r: int = 16, alpha: float = 16.0, dropout: float = 0.0,
    targets: tuple[str, ...] = ("attn.q", "attn.v", "xattn.q", "xattn.v"),
) -> nn.Module:
    """Freeze the model and put a half-trained correction beside every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        kit.attach(site, "mica", MiCA(site.weight.detach(), r=r, alpha=alpha, dropout=dropout))
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the corrections to the weights."""
    return lora.merge(model, name="mica")
