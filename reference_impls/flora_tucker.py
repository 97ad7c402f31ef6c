"""FLoRA: a low-rank core space in Tucker form (si2025flora; code_flora).

    h = W_0 x + s B G A x

Trained beside every targeted weight: A (r_in, d_in), B (d_out, r_out) and the core G (r_out, r_in). The core starts at
zero. A weight with more dimensions, such as the kernel of a convolution, has a factor for each; this is the case of a
matrix. At inference the product is added to W_0.
"""

import torch
from torch import Tensor, nn

from . import _kit as kit


class Tucker(kit.Child):
    """The correction beside one weight of shape (d_out, d_in)."""

    def __init__(self, d_in: int, d_out: int, *, r_in: int, r_out: int, scale: float, dropout: float):
        super().__init__()
        self.A = nn.Parameter((2 * r_in) ** -0.5 * torch.randn(r_in, d_in))
        self.G = nn.Parameter(torch.zeros(r_out, r_in))
        self.B = nn.Parameter((2 * r_out) ** -0.5 * torch.randn(d_out, r_out))
        self.scale = scale
        self.dropout = nn.Dropout(dropout)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        low: Tensor = self.dropout(x) @ self.A.T @ self.G.T         # (..., d_in) -> (..., r_in) -> (..., r_out)
        return y + self.scale * (low @ self.B.T)                    # (..., r_out) -> (..., d_out)

    def delta(self) -> Tensor:
        return self.scale * (self.B @ self.G @ self.A)              # (d_out, d_in)


def apply(
    model: nn.Module, *, r_in: int = 16, r_out: int = 16, scale: float = 4.0, dropout: float = 0.01,
    targets: tuple[str, ...] = ("attn.*", "xattn.*", "mlp.*"),
) -> nn.Module:
    """Freeze the model and put a core between two factors beside every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        child = Tucker(site.d_in, site.d_out, r_in=r_in, r_out=r_out, scale=scale, dropout=dropout)
        kit.attach(site, "flora_tucker", child)
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the corrections to the weights."""
    return kit.fold(model, "flora_tucker")
