"""VeRA: vector-based random matrix adaptation (kopiczko2024vera).

    h = W_0 x + b * (B (d * (A x)))

A (r, d_in) and B (d_out, r) are random, frozen and the same for every targeted weight; where widths differ, a weight
uses the first columns of A and the first rows of B. Trained: the vectors d (r) and b (d_out) of each weight; b starts
at zero. A and B are drawn from torch's generator, so a seed stores them. At inference the product is added to W_0.
peft draws them from a generator of its own and saves them with every task unless told otherwise.
"""

import torch
from torch import Tensor, nn

from . import _kit as kit


class Shared(kit.Child):
    """The random pair of the model."""

    A: Tensor
    B: Tensor

    def __init__(self, a: Tensor, b: Tensor):
        super().__init__()
        self.register_buffer("A", a)
        self.register_buffer("B", b)


class VeRA(kit.Child):
    """The correction beside one weight of shape (d_out, d_in)."""

    shared: Shared      # not a submodule

    def __init__(self, d_in: int, d_out: int, shared: Shared, *, d_initial: float):
        super().__init__()
        kit.share(self, shared=shared)
        self.d_in, self.d_out = d_in, d_out
        self.lambda_d = nn.Parameter(torch.full((len(shared.A),), d_initial))
        self.lambda_b = nn.Parameter(torch.zeros(d_out))

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        low = self.lambda_d * (x @ self.shared.A[:, : self.d_in].T)             # (..., d_in) -> (..., r)
        return y + self.lambda_b * (low @ self.shared.B[: self.d_out].T)        # (..., r) -> (..., d_out)

    def delta(self) -> Tensor:
        a = self.lambda_d[:, None] * self.shared.A[:, : self.d_in]              # (r, d_in)
        return self.lambda_b[:, None] * self.shared.B[: self.d_out] @ a         # (d_out, d_in)


def random(*shape: int) -> Tensor:
    """Return a random matrix of this shape, Kaiming-uniform."""
    return nn.init.kaiming_uniform_(torch.empty(*shape))


def apply(
    model: nn.Module, *, r: int = 256, d_initial: float = 0.1,
    targets: tuple[str, ...] = ("attn.q", "attn.v", "xattn.q", "xattn.v"),
) -> nn.Module:
    """Freeze the model, draw the random pair, and put scaled copies of it beside every targeted weight."""
    kit.freeze(model)
    sites = kit.sites(model, targets)
    shared = Shared(random(r, max(site.d_in for site in sites)), random(max(site.d_out for site in sites), r))
    kit.attach(model, "vera", shared)
    for site in sites:
        kit.attach(site, "vera", VeRA(site.d_in, site.d_out, shared, d_initial=d_initial))
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the corrections to the weights."""
    return kit.fold(model, "vera")
