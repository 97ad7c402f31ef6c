"""LoKr: low-rank adaptation with Kronecker product (yeh2024lycoris).

    h = W_0 x + (alpha / r) (w1 kron w2) x,    w2 = w2_a w2_b where r is below half of its larger side

Trained, with a width's factor f (decompose_factor where that divides the width, else the largest divisor up to it and
up to the width's root; -1 for no limit but the root): w1 (f_out, f_in), and w2 (d_out / f_out, d_in / f_in) or its thin
factors w2_a (d_out / f_out, r) and w2_b (r, d_in / f_in); with decompose_both w1 is split likewise where r is below
half of its larger side. w2 or w2_b starts at zero, as in LyCORIS (in peft w1, by default). Where neither is split, the
scale is one. At inference the product is added to W_0. LyCORIS scales by (alpha / r)^2 when it merges.
"""

import math

import torch
from torch import Tensor, nn

from . import _kit as kit
from .krona import kronecker


def factor(width: int, wanted: int) -> int:
    """Into how many parts a width is divided."""
    if wanted > 0 and width % wanted == 0:
        return wanted
    most = math.isqrt(width) if wanted < 1 else min(wanted, math.isqrt(width))
    return next(f for f in range(most, 0, -1) if width % f == 0)


class LoKr(kit.Child):
    """The correction beside one weight of shape (d_out, d_in)."""

    def __init__(
        self, d_in: int, d_out: int, *, r: int, alpha: float, decompose_factor: int, decompose_both: bool
    ):
        super().__init__()
        f_in, f_out = factor(d_in, decompose_factor), factor(d_out, decompose_factor)
        self._split("w1", f_out, f_in, r if decompose_both else max(f_in, f_out))
        self._split("w2", d_out // f_out, d_in // f_in, r)
        nn.init.zeros_(self.get_parameter("w2" if hasattr(self, "w2") else "w2_b"))
        self.scale = 1.0 if hasattr(self, "w1") and hasattr(self, "w2") else alpha / r

    def _split(self, name: str, rows: int, columns: int, r: int) -> None:
        """Make a matrix (rows, columns), as two factors where r is small enough."""
        shapes = {f"{name}_a": (rows, r), f"{name}_b": (r, columns)}
        for part, shape in (shapes if 2 * r < max(rows, columns) else {name: (rows, columns)}).items():
            value = nn.init.kaiming_uniform_(torch.empty(*shape), a=math.sqrt(5))
            self.register_parameter(part, nn.Parameter(value))

    def factor(self, name: str) -> Tensor:
        if hasattr(self, name):
            return self.get_parameter(name)
        return self.get_parameter(f"{name}_a") @ self.get_parameter(f"{name}_b")

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        return y + self.scale * kronecker(self.factor("w1"), self.factor("w2"), x)      # (..., d_in) -> (..., d_out)

    def delta(self) -> Tensor:
        delta: Tensor = self.scale * torch.kron(self.factor("w1"), self.factor("w2"))   # (d_out, d_in)
        return delta


def apply(
    model: nn.Module, *, r: int = 4, alpha: float = 1.0, decompose_factor: int = -1, decompose_both: bool = False,
    targets: tuple[str, ...] = ("attn.q", "attn.v", "xattn.q", "xattn.v"),
) -> nn.Module:
    """Freeze the model and put a Kronecker product beside every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        child = LoKr(
            site.d_in, site.d_out, r=r, alpha=alpha, decompose_factor=decompose_factor, decompose_both=decompose_both
        )
        kit.attach(site, "lokr", child)
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the products to the weights."""
    return kit.fold(model, "lokr")
