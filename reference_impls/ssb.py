"""SSB: scaling both singular spaces (si2024subspace; code_subspace_tuning#loralib/loralib/layers_SSB.py:Linear).

    h = diag(s_out) W_0 diag(s_in) x + b

Trained: s_in (d_in) and, unless only one side is scaled (SSL), s_out (d_out) of every targeted weight, all ones at
first. With W_0 = U S V, they scale the rows of U and the columns of V. At inference both are multiplied into W_0. The
bias is not scaled.
"""

import torch
from torch import Tensor, nn

from . import _kit as kit


class Scales(kit.Child):
    """The scales of the columns and rows of one weight of shape (d_out, d_in)."""

    site: kit.Site
    s_out: nn.Parameter

    def __init__(self, d_in: int, d_out: int, *, both: bool):
        super().__init__()
        self.both = both
        self.s_in = nn.Parameter(torch.ones(d_in))
        if both:
            self.s_out = nn.Parameter(torch.ones(d_out))

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        return y + x @ self.delta().T                               # (..., d_in) -> (..., d_out)

    def delta(self) -> Tensor:
        weight = self.site.weight.detach()
        scaled = weight * self.s_in                                 # (d_out, d_in)
        return (scaled * self.s_out[:, None] if self.both else scaled) - weight


def apply(model: nn.Module, *, both: bool = True, targets: tuple[str, ...] = ("attn.*", "mlp.*")) -> nn.Module:
    """Freeze the model and scale the columns and rows of every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        kit.attach(site, "ssb", Scales(site.d_in, site.d_out, both=both))
    return model


def merge(model: nn.Module) -> nn.Module:
    """Multiply the scales into the weights."""
    return kit.fold(model, "ssb")
