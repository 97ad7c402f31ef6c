"""LoHa: low-rank adaptation with Hadamard product (yeh2024lycoris; the product is that of hyeonwoo2022fedpara).

    h = W_0 x + (alpha / r) ((w1_a w1_b) * (w2_a w2_b)) x,    * entry by entry, of rank up to r^2

Trained: w1_a, w2_a (d_out, r) and w1_b, w2_b (r, d_in) beside every targeted weight; w2_a starts at zero, the others
normal, as in LyCORIS. At inference the product is added to W_0. peft starts w2_b at zero instead and the others
Kaiming-uniform; LyCORIS 4.1.3 scales by (alpha / r)^2 when it merges.
"""

import torch
from torch import Tensor, nn

from . import _kit as kit


class LoHa(kit.Child):
    """The correction beside one weight of shape (d_out, d_in)."""

    def __init__(self, d_in: int, d_out: int, *, r: int, alpha: float):
        super().__init__()
        self.w1_a = nn.Parameter(0.1 * torch.randn(d_out, r))
        self.w1_b = nn.Parameter(torch.randn(r, d_in))
        self.w2_a = nn.Parameter(torch.zeros(d_out, r))
        self.w2_b = nn.Parameter(torch.randn(r, d_in))
        self.scale = alpha / r

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        return y + x @ self.delta().T                               # (..., d_in) -> (..., d_out)

    def delta(self) -> Tensor:
        return self.scale * (self.w1_a @ self.w1_b) * (self.w2_a @ self.w2_b)       # (d_out, d_in)


def apply(
    model: nn.Module, *, r: int = 4, alpha: float = 1.0,
    targets: tuple[str, ...] = ("attn.q", "attn.v", "xattn.q", "xattn.v"),
) -> nn.Module:
    """Freeze the model and put a Hadamard product of two low-rank matrices beside every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        kit.attach(site, "loha", LoHa(site.d_in, site.d_out, r=r, alpha=alpha))
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the corrections to the weights."""
    return kit.fold(model, "loha")
