"""RandLoRA: full-rank adaptation with random low-rank bases (albert2025randlora; code_randlora).

    h = W_0 x + alpha / (r sqrt(N)) sum over j of  B_j diag(lambda_j) A diag(gamma_j) x,  N = ceil(d_in / r)

for d_in <= d_out, else the transpose of it, so that gamma stands on the smaller side. A (r, d_in) and the B_j
(d_out, r) are random, frozen and the same for every targeted weight, which uses the first rows, columns and products
of them. Trained: lambda (N, r) and gamma (N, min(d_in, d_out)) of each weight; lambda starts at zero. A seed stores A
and B. At inference the sum is added to W_0. The authors and peft pair the columns of the B_j with the rows of A in
another order. peft scales by alpha / r, and saves A and B for every weight unless told otherwise.
"""

import math

import torch
from torch import Tensor, nn

from . import _kit as kit
from .vera import Shared


class RandLoRA(kit.Child):
    """The correction beside one weight of shape (d_out, d_in)."""

    shared: Shared      # not a submodule

    def __init__(self, d_in: int, d_out: int, shared: Shared, *, alpha: float):
        super().__init__()
        kit.share(self, shared=shared)
        self.wide, self.narrow = d_out < d_in, min(d_in, d_out)
        self.larger = max(d_in, d_out)
        r = len(shared.A)
        n = math.ceil(self.narrow / r)
        self.register_parameter("lambda", nn.Parameter(torch.zeros(n, r)))
        self.gamma = nn.Parameter(torch.full((n, self.narrow), 1 / max(n, self.narrow)))
        self.scale = alpha / (r * math.sqrt(n))

    def factors(self) -> tuple[Tensor, Tensor]:
        """The sum as a product of two: (larger, n r) and (n r, narrow)."""
        scales = self.get_parameter("lambda")
        b = self.shared.B[: len(scales), : self.larger]                             # (n, larger, r)
        a = scales[:, :, None] * self.shared.A[:, : self.narrow] * self.gamma[:, None]      # (n, r, narrow)
        return b.transpose(0, 1).flatten(1), a.flatten(0, 1)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        b, a = self.factors()
        change: Tensor = x @ b @ a if self.wide else x @ a.T @ b.T                  # (..., d_in) -> (..., d_out)
        return y + self.scale * change

    def delta(self) -> Tensor:
        b, a = self.factors()
        return self.scale * ((b @ a).T if self.wide else b @ a)                     # (d_out, d_in)


def random(*shape: int) -> Tensor:
    """Return a basis of this shape, uniform with standard deviation one."""
    return torch.empty(*shape).uniform_(-math.sqrt(3), math.sqrt(3))        # of standard deviation one


def apply(
    model: nn.Module, *, r: int = 32, alpha: float = 64.0,
    targets: tuple[str, ...] = (
        "attn.q", "attn.k", "attn.v", "xattn.q", "xattn.k", "xattn.v", "mlp.up", "mlp.down",
    ),
) -> nn.Module:
    """Freeze the model, draw the random bases, and put scaled copies of them beside every targeted weight."""
    kit.freeze(model)
    sites = kit.sites(model, targets)
    narrow, larger = sorted((max(site.d_in for site in sites), max(site.d_out for site in sites)))
    shared = Shared(random(r, narrow), random(math.ceil(narrow / r), larger, r))
    kit.attach(model, "randlora", shared)
    for site in sites:
        kit.attach(site, "randlora", RandLoRA(site.d_in, site.d_out, shared, alpha=alpha))
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the sums to the weights."""
    return kit.fold(model, "randlora")
