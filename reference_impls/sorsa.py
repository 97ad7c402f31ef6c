"""SORSA: the largest singular values and vectors of a weight, trained with a penalty (cao2024sorsa; code_sorsa).

    W_0 = U Sigma V^T,    h = (W_0 - U_r Sigma_r V_r^T) x + B diag(S) A x
    penalty = mean over all A and B of |A A^T - I| and |B^T B - I|

Trained: A (r, d_in) = V_r^T, S (r) = Sigma_r and B (d_out, r) = U_r. The rest of the weight stays in the place of W_0.
A training loop adds a multiple of `penalty(model)` to its loss. At inference the product is added to the rest.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from . import _kit as kit


class SORSA(kit.Child):
    """The principal part of one weight (d_out, d_in)."""

    def __init__(self, weight: Tensor, *, r: int, dropout: float):
        super().__init__()
        u, s, v = torch.linalg.svd(weight.detach(), full_matrices=False)
        self.A = nn.Parameter(v[:r].clone())
        self.S = nn.Parameter(s[:r].clone())
        self.B = nn.Parameter(u[:, :r].clone())
        self.dropout = nn.Dropout(dropout)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        low: Tensor = (self.dropout(x) @ self.A.T) * self.S         # (..., d_in) -> (..., r)
        return y + low @ self.B.T                                   # (..., r) -> (..., d_out)

    def delta(self) -> Tensor:
        return (self.B * self.S) @ self.A                           # (d_out, d_in)

    def off(self) -> list[Tensor]:
        """Return how far the vectors of A and those of B are from orthonormal ones."""
        one = torch.eye(len(self.S), dtype=self.S.dtype, device=self.S.device)
        return [torch.linalg.norm(gram - one) for gram in (self.A @ self.A.T, self.B.T @ self.B)]


def penalty(model: nn.Module) -> Tensor:
    """Return the mean distance from orthonormal vectors, over all matrices of the model."""
    return torch.stack([norm for _, child in kit.at_sites(model, "sorsa", SORSA) for norm in child.off()]).mean()


@torch.no_grad()
def apply(
    model: nn.Module, *, r: int = 128, dropout: float = 0.0, targets: tuple[str, ...] = ("attn.*", "xattn.*", "mlp.*")
) -> nn.Module:
    """Freeze what is left of every targeted weight without its principal part, which is to be trained."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        if r > min(site.d_in, site.d_out):
            raise ValueError(f"rank {r} is larger than that of a weight of {site.d_out} x {site.d_in}")
        child = SORSA(site.weight, r=r, dropout=dropout)
        kit.attach(site, "sorsa", child)
        site.weight.sub_(child.delta())
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the trained part to the rest."""
    return kit.fold(model, "sorsa")


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the adapted module, and compute the penalty; for the golden vectors."""
    [(site, _)] = kit.at_sites(model, "sorsa", SORSA)
    return {"output": site.module(inputs["x"]), "penalty": penalty(model)}
