"""LoTR: low tensor rank adaptation (bershatsky2024lotr; code_lotr).

    h = W_0 x + (alpha / r) U M V x

Trained: U (d_out, r) and V (r, d_in), which all targeted weights share, and a core M (r, r) beside each of them. The
corrections of all weights together are a tensor in Tucker form. The cores start at zero. At inference the product is
added to W_0.
"""

import torch
from torch import Tensor, nn

from peftonomy import UsageError

from . import _kit as kit


class Factors(kit.Child):
    """The outer factors, for the whole model."""

    def __init__(self, d_in: int, d_out: int, *, r: int):
        super().__init__()
        self.U = nn.Parameter(torch.randn(d_out, r))
        self.V = nn.Parameter(torch.randn(r, d_in))


class LoTR(kit.Child):
    """The correction beside one weight of shape (d_out, d_in)."""

    factors: Factors            # not a submodule

    def __init__(self, factors: Factors, *, r: int, alpha: float):
        super().__init__()
        kit.share(self, factors=factors)
        self.M = nn.Parameter(torch.zeros(r, r))
        self.scale = alpha / r

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        low = x @ self.factors.V.T @ self.M.T                       # (..., d_in) -> (..., r)
        return y + self.scale * (low @ self.factors.U.T)            # (..., r) -> (..., d_out)

    def delta(self) -> Tensor:
        return self.scale * (self.factors.U @ self.M @ self.factors.V)      # (d_out, d_in)


def apply(
    model: nn.Module, *, r: int = 2, alpha: float = 1.0,
    targets: tuple[str, ...] = ("attn.q", "attn.v", "xattn.q", "xattn.v"),
) -> nn.Module:
    """Freeze the model, and put a core between shared factors beside every targeted weight.

    Raises UsageError if the weights are not of one shape.
    """
    kit.freeze(model)
    sites = kit.sites(model, targets)
    shapes = sorted({(site.d_out, site.d_in) for site in sites})
    if len(shapes) > 1:
        found = ", ".join(f"{d_out} x {d_in}" for d_out, d_in in shapes)
        raise UsageError(f"the targeted weights share their factors: found shapes {found}; one shape was expected")
    factors = Factors(sites[0].d_in, sites[0].d_out, r=r)
    kit.attach(model, "lotr", factors)
    for site in sites:
        kit.attach(site, "lotr", LoTR(factors, r=r, alpha=alpha))
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the corrections to the weights."""
    return kit.fold(model, "lotr")
