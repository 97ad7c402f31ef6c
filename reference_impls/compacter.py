"""Compacter: efficient low-rank hypercomplex adapter layers (karimi2021compacter#section-3.2).

    h <- h + W_up^T gelu(W_down^T h + b_down) + b_up,    W = sum over i of  A_i kron (s_i t_i)

An adapter whose matrices are sums of n Kronecker products. Trained: A (n, n, n), which the whole model shares;
for each adapter the thin factors s (n, d_in / n, phm_rank) and t (n, phm_rank, d_out / n) of its two matrices W
(d_in, d_out), and biases; with `train_norms` every norm of the model. At inference all of it remains: W could be
written out, but the GELU keeps it apart from the backbone. Targets ("attn.o", "mlp.down") make Compacter,
("mlp.down",) alone Compacter++.

The official classes give every matrix its own A by default; the official configuration shares it, as here.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from . import _kit as kit


class Shared(kit.Child):
    """What all adapters share."""

    def __init__(self, n: int):
        super().__init__()
        self.A = nn.Parameter(1e-4 * torch.randn(n, n, n))


class Compacter(kit.Child):
    """The adapter behind one linear map."""

    shared: Shared      # not a submodule

    def __init__(self, d: int, shared: Shared, *, bottleneck: int, n: int, phm_rank: int):
        super().__init__()
        if d % n or bottleneck % n:
            raise ValueError(f"n = {n} must divide both widths, {d} and {bottleneck}")
        kit.share(self, shared=shared)
        self.s_down = nn.Parameter(torch.empty(n, d // n, phm_rank))
        self.t_down = nn.Parameter(torch.empty(n, phm_rank, bottleneck // n))
        self.b_down = nn.Parameter(torch.zeros(bottleneck))
        self.s_up = nn.Parameter(torch.empty(n, bottleneck // n, phm_rank))
        self.t_up = nn.Parameter(torch.empty(n, phm_rank, d // n))
        self.b_up = nn.Parameter(torch.zeros(d))
        for factor in (self.s_down, self.t_down, self.s_up, self.t_up):
            for matrix in factor.data:
                nn.init.xavier_uniform_(matrix, gain=2**0.5)

    def weight(self, s: Tensor, t: Tensor) -> Tensor:
        w = torch.einsum("ijk,ilr,irm->jlkm", self.shared.A, s, t)  # (n, d_in / n, n, d_out / n)
        return w.flatten(2).flatten(0, 1)                           # (d_in, d_out)

    def after(self, _: Tensor, h: Tensor) -> Tensor:
        z = h @ self.weight(self.s_down, self.t_down) + self.b_down     # (..., d) -> (..., bottleneck)
        z = gelu(z, approximate="tanh")
        return h + z @ self.weight(self.s_up, self.t_up) + self.b_up    # (..., bottleneck) -> (..., d)


def apply(
    model: nn.Module, *, bottleneck: int = 24, n: int = 4, phm_rank: int = 1, train_norms: bool = True,
    targets: tuple[str, ...] = ("attn.o", "mlp.down"), name: str = "compacter",
) -> nn.Module:
    """Freeze the model but for its norms, and put an adapter behind every targeted linear map."""
    kit.freeze(model)
    shared = Shared(n)
    kit.attach(model, name, shared)
    for site in kit.sites(model, targets):
        kit.attach(site, name, Compacter(site.d_out, shared, bottleneck=bottleneck, n=n, phm_rank=phm_rank))
    for weight in kit.weights(model) if train_norms else ():
        if weight.kind == "norm":
            weight.value.requires_grad_(True)
    return model
