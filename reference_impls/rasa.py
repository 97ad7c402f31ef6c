"""RaSA: rank-sharing low-rank adaptation (he2025rasa; code_rasa).

    h = W_0 x + B diag(g) A x + B_s diag(e_l) A_s x

Trained: beside every targeted weight A (r - k, d_in), B (d_out, r - k) and the weights g (r - k) of these ranks. For
every targeted role with n layers, a pool A_s (k n, d_in) and B_s (d_out, k n), with a row e_l (k n) of e for each
layer l. B and B_s start at zero; g and e start so that each part has half of LoRA's scale. At inference both products
are added to W_0.
"""

import math

import torch
from torch import Tensor, nn

from . import _kit as kit


def through(x: Tensor, a: Tensor, weights: Tensor, b: Tensor) -> Tensor:
    """Apply b diag(weights) a to the last dimension of x."""
    return (x @ a.T * weights) @ b.T


class Pool(kit.Child):
    """The ranks that n weights of one role share."""

    def __init__(self, d_in: int, d_out: int, n: int, *, k: int, alpha: float):
        super().__init__()
        self.A_s = nn.Parameter(torch.empty(k * n, d_in))
        self.B_s = nn.Parameter(torch.zeros(d_out, k * n))
        self.e = nn.Parameter(torch.full((n, k * n), alpha / (2 * k * n)))
        nn.init.kaiming_uniform_(self.A_s, a=math.sqrt(5))


class RaSA(kit.Child):
    """The correction beside one weight of shape (d_out, d_in)."""

    pool: Pool          # not a submodule

    def __init__(self, pool: Pool, layer: int, d_in: int, d_out: int, *, r: int, alpha: float, dropout: float):
        super().__init__()
        kit.share(self, pool=pool)
        self.A = nn.Parameter(torch.empty(r, d_in))
        self.B = nn.Parameter(torch.zeros(d_out, r))
        self.g = nn.Parameter(torch.full((r,), alpha / (2 * r)))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
        self.layer = layer
        self.dropout = nn.Dropout(dropout)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        x, pool = self.dropout(x), self.pool
        return y + through(x, self.A, self.g, self.B) + through(x, pool.A_s, pool.e[self.layer], pool.B_s)

    def delta(self) -> Tensor:
        shared = self.pool.B_s * self.pool.e[self.layer] @ self.pool.A_s
        return self.B * self.g @ self.A + shared                    # (d_out, d_in)


def apply(
    model: nn.Module, *, r: int = 8, k: int = 1, alpha: float = 8.0, dropout: float = 0.05,
    targets: tuple[str, ...] = ("attn.*", "xattn.*", "mlp.*"),
) -> nn.Module:
    """Freeze the model, and put a correction of own and shared ranks beside every targeted weight."""
    kit.freeze(model)
    for role, sites in kit.by_role(model, targets).items():
        pool = Pool(sites[0].d_in, sites[0].d_out, len(sites), k=k, alpha=alpha)
        kit.attach(model, f"rasa.{role.replace('.', '_')}", pool)
        for i, site in enumerate(sites):
            child = RaSA(pool, i, site.d_in, site.d_out, r=r - k, alpha=alpha, dropout=dropout)
            kit.attach(site, "rasa", child)
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the corrections to the weights."""
    return kit.fold(model, "rasa")


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Run the method alone on recorded inputs; for the golden vectors."""
    return torch.cat([site.module(inputs["x"]) for site, _ in kit.at_sites(model, "rasa", RaSA)], dim=-1)
