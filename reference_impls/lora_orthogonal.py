"""Orthogonal start of LoRA (init_lora_weights="orthogonal" of hf_peft).

    B_0 = Y Q_1 / 10,   A_0 = Q_2^T X / 10,   Q_1 Q_2^T = 0,   h = W_0 x + (alpha / r) B A x

Trained: A (r, d_in) and B (d_out, r), as in LoRA. Q_1 and Q_2 are every second and the other rows of a random
orthogonal matrix (r, r), with r even. X (r / 2, d_in) and Y (d_out, r / 2) have normal entries. The product starts at
zero although neither factor does. At inference the product is added to W_0.
"""

import torch
from torch import nn

from . import _kit as kit
from . import lora


@torch.no_grad()
def apply(
    model: nn.Module, *, r: int = 8, alpha: float = 8.0, dropout: float = 0.0,
    targets: tuple[str, ...] = ("attn.q", "attn.v", "xattn.q", "xattn.v"),
) -> nn.Module:
    """Freeze the model and put a correction beside every targeted weight, whose factors start in orthogonal halves."""
    if r % 2:
        raise ValueError(f"the rank must be even, not {r}")
    lora.apply(model, r=r, alpha=alpha, dropout=dropout, targets=targets, name="lora_orthogonal")
    for site, child in kit.at_sites(model, "lora_orthogonal", lora.LoRA):
        q = torch.linalg.qr(torch.randn(r, r).double()).Q           # so that the halves are orthogonal in any precision
        child.A.copy_(q[0::2].T @ torch.randn(r // 2, site.d_in).double() / 10)
        child.B.copy_(torch.randn(site.d_out, r // 2).double() @ q[1::2] / 10)
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the corrections to the weights."""
    return lora.merge(model, name="lora_orthogonal")
