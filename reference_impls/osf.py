"""OSF: orthogonal subspace fine-tuning (nayak2026osf).

    W = U_h S_h V_h + U S V,    the k largest singular triplets frozen (h), the others trained
    dL/dU <- (I - U_h U_h^T) dL/dU,    dL/dV <- dL/dV (I - V_h^T V_h)

Trained: U (d_out, m - k), S (m - k) and V (m - k, d_in) of every targeted weight, m the smaller of its sides. Their
gradients are projected away from the frozen directions, which hold what the model knows. At inference the parts are
one weight again. Here the weight keeps the frozen part only; peft keeps it whole and takes the start of the trained
part off again.
"""

from functools import partial

import torch
from torch import Tensor, nn

from . import _kit as kit


class OSF(kit.Child):
    """The trained part of one weight of shape (d_out, d_in)."""

    def __init__(self, u: Tensor, s: Tensor, v: Tensor):
        super().__init__()
        self.U, self.S, self.V = nn.Parameter(u), nn.Parameter(s), nn.Parameter(v)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        return y + (x @ self.V.T * self.S) @ self.U.T               # (..., d_in) -> (..., m - k) -> (..., d_out)

    def delta(self) -> Tensor:
        return (self.U * self.S) @ self.V                           # (d_out, d_in)


def away(basis: Tensor, gradient: Tensor) -> Tensor:
    """A matrix (n, j) without its part in the span of orthonormal columns (n, k)."""
    return gradient - basis @ (basis.T @ gradient)


def frozen(d_in: int, d_out: int, effective_rank: float) -> int:
    """How many triplets are kept: a share of the smaller side below 1, a number above."""
    smaller = min(d_in, d_out)
    return int(smaller * effective_rank) if effective_rank < 1 else min(smaller, int(effective_rank))


def apply(
    model: nn.Module, *, effective_rank: float = 0.5, targets: tuple[str, ...] = ("attn.*", "xattn.*", "mlp.*")
) -> nn.Module:
    """Split every targeted weight, freeze the large part and train the small one."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        u, s, v = torch.linalg.svd(site.weight.detach(), full_matrices=False)
        k = frozen(site.d_in, site.d_out, effective_rank)
        child = OSF(u[:, k:].clone(), s[k:].clone(), v[k:].clone())
        site.weight.data.sub_(child.delta().detach())
        kit.attach(site, "osf", child)
        child.U.register_hook(partial(away, u[:, :k].clone()))
        child.V.register_hook(partial(_away_from_rows, v[:k].clone()))
    return model


def _away_from_rows(rows: Tensor, gradient: Tensor) -> Tensor:
    return away(rows.T, gradient.T).T


def merge(model: nn.Module) -> nn.Module:
    """Add the trained parts to the weights."""
    return kit.fold(model, "osf")
