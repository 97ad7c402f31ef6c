"""LoRA-XS: low-rank adaptation with an extremely small number of parameters (balazy2024loraxs; code_lora_xs).

    W_0 = U S V^T,   h = W_0 x + (alpha / r) U_r R (S_r V_r^T) x

Trained: R (r, r) beside every targeted weight; it starts near zero. Frozen: A = S_r V_r^T (r, d_in) and B = U_r
(d_out, r), the principal part of the weight, which the pretrained weight gives back. The weight itself is unchanged.
At inference the product is added to it. The largest entry of each column of B is positive, so that every library finds
the same factors.
"""

import torch
from torch import Tensor, nn

from . import _kit as kit


class LoRAXS(kit.Child):
    """The correction beside one weight of shape (d_out, d_in)."""

    A: Tensor
    B: Tensor

    def __init__(self, weight: Tensor, *, r: int, alpha: float, dropout: float):
        super().__init__()
        d_out, d_in = weight.shape
        if r > min(d_in, d_out):
            raise ValueError(f"rank {r} is larger than that of a weight of {d_out} x {d_in}")
        u, s, v = torch.linalg.svd(weight.detach(), full_matrices=False)
        u, v = u[:, :r], v[:r]
        signs = u.gather(0, u.abs().argmax(0, keepdim=True)).sign()         # (1, r)
        self.register_buffer("A", signs.T * s[:r, None] * v)
        self.register_buffer("B", signs * u)
        self.R = nn.Parameter(1e-5 * torch.randn(r, r))
        self.scale = alpha / r
        self.dropout = nn.Dropout(dropout)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        low: Tensor = self.dropout(x) @ self.A.T @ self.R.T         # (..., d_in) -> (..., r)
        return y + self.scale * (low @ self.B.T)                    # (..., r) -> (..., d_out)

    def delta(self) -> Tensor:
        return self.B @ self.R @ self.A * self.scale                # (d_out, d_in)


def apply(
    model: nn.Module, *, r: int = 64, alpha: float = 64.0, dropout: float = 0.0,
    targets: tuple[str, ...] = ("attn.*", "xattn.*", "mlp.*"),
) -> nn.Module:
    """Freeze the model and put a trained core between the principal directions of every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        kit.attach(site, "lora_xs", LoRAXS(site.weight, r=r, alpha=alpha, dropout=dropout))
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the corrections to the weights."""
    return kit.fold(model, "lora_xs")
