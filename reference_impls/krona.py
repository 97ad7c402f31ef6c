"""KronA: parameter-efficient tuning with Kronecker adapter (edalati2022krona).

    h = W_0 x + s (A kron B) x,    (A kron B) x = A X B^T, with x folded row by row into X (a2, d_in / a2)

Trained: A (a1, a2) and B (d_out / a1, d_in / a2) beside every targeted weight. At inference nothing is left: the
product is added to W_0. No code of the authors is known; that B is the factor that starts at zero is our choice.
`lokr` is the libraries' form of the idea.
"""

import math

import torch
from torch import Tensor, nn

from . import _kit as kit


class KronA(kit.Child):
    """The correction beside one weight of shape (d_out, d_in)."""

    def __init__(self, d_in: int, d_out: int, *, a1: int, a2: int, scale: float):
        super().__init__()
        if d_out % a1 or d_in % a2:
            raise ValueError(f"a1 = {a1} must divide {d_out}, and a2 = {a2} must divide {d_in}")
        self.A = nn.Parameter(torch.empty(a1, a2))
        self.B = nn.Parameter(torch.zeros(d_out // a1, d_in // a2))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
        self.scale = scale

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        return y + self.scale * kronecker(self.A, self.B, x)

    def delta(self) -> Tensor:
        delta: Tensor = self.scale * torch.kron(self.A, self.B)     # (d_out, d_in)
        return delta


def kronecker(a: Tensor, b: Tensor, x: Tensor) -> Tensor:
    """(A kron B) x without the product: (..., d_in) -> (..., d_out)."""
    folded = x.unflatten(-1, (a.shape[1], b.shape[1]))              # (..., d_in) -> (..., a2, b2)
    mapped: Tensor = a @ folded @ b.T                               # (..., a1, b1)
    return mapped.flatten(-2)                                       # (..., d_out)


def apply(
    model: nn.Module, *, a1: int = 32, a2: int = 32, scale: float = 1.0,
    targets: tuple[str, ...] = ("attn.q", "attn.v", "xattn.q", "xattn.v"),
) -> nn.Module:
    """Freeze the model and put a Kronecker product beside every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        kit.attach(site, "krona", KronA(site.d_in, site.d_out, a1=a1, a2=a2, scale=scale))
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the products to the weights."""
    return kit.fold(model, "krona")
