"""AdaMSS: adaptive multi-subspace approach (zheng2025adamss; code_adamss).

    h_i = W_0i x + b_i + B_i A_k(i) V [x, 1],    [W_0, b] = U S V cut off at r,    k(i) = the cluster of row i of U

Trained beside every targeted weight: A (K, s, r), a small map for each of K clusters of outputs, and B (d_out, s),
which spreads what its cluster's map gives over the cluster's outputs. V (r, d_in, and one for the bias) and the
clusters follow from the weight. At inference nothing is left, for the bias is changed too. The authors can also freeze
clusters while training, the least important first (ASA), which is not here. They cluster with scikit-learn, and a
cluster of fewer than s outputs gets a smaller map.
"""

import torch
from torch import Tensor, nn

from . import _kit as kit


class AdaMSS(kit.Child):
    """The correction of one weight (d_out, d_in) and its bias."""

    V: Tensor
    cluster: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None, *, r: int, num_subspaces: int, subspace_rank: int):
        super().__init__()
        self.has_bias = bias is not None
        whole = weight if bias is None else torch.cat([weight, bias[:, None]], dim=1)       # (d_out, d_in or d_in + 1)
        u, _, v = torch.linalg.svd(whole, full_matrices=False)
        self.register_buffer("V", v[:r].clone(), persistent=False)
        self.register_buffer("cluster", clusters(u[:, :r], num_subspaces), persistent=False)            # (d_out,)
        apart = [torch.where(self.cluster[:, None] == k, u[:, :r], 0) for k in range(num_subspaces)]
        parts = [torch.linalg.svd(rows, full_matrices=False).Vh[:subspace_rank] for rows in apart]
        self.A = nn.Parameter(torch.stack(parts))                   # (K, s, r), orthonormal rows
        self.B = nn.Parameter(torch.zeros(len(weight), subspace_rank))

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        known = torch.cat([x, torch.ones_like(x[..., :1])], dim=-1) if self.has_bias else x
        low = torch.einsum("ksr,...r->...ks", self.A, known @ self.V.T)
        changed: Tensor = y + (low[..., self.cluster, :] * self.B).sum(-1)                  # (..., d_out)
        return changed

    def delta(self) -> Tensor:
        """What is added to the weight and, in the last column, to the bias."""
        spread: Tensor = torch.einsum("os,osr->or", self.B, self.A[self.cluster]) @ self.V
        return spread                                               # (d_out, d_in or d_in + 1)


def clusters(rows: Tensor, k: int) -> Tensor:
    """Which of k clusters each row (n, r) belongs to: ten rounds of k-means, always from the same rows."""
    start = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:k]
    centres = rows[start.to(rows.device)]
    nearest = torch.cdist(rows, centres).argmin(1)
    for _ in range(10):
        centres = torch.stack([rows[nearest == i].mean(0) if (nearest == i).any() else centres[i] for i in range(k)])
        nearest = torch.cdist(rows, centres).argmin(1)
    return nearest                                                  # (n,)


def apply(
    model: nn.Module, *, r: int = 100, num_subspaces: int = 10, subspace_rank: int = 1,
    targets: tuple[str, ...] = ("attn.q", "attn.v", "xattn.q", "xattn.v"),
) -> nn.Module:
    """Freeze the model and put a small map for each cluster of outputs beside every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        bias = None if site.bias is None else site.bias.detach()
        child = AdaMSS(site.weight.detach(), bias, r=r, num_subspaces=num_subspaces, subspace_rank=subspace_rank)
        kit.attach(site, "adamss", child)
    return model


@torch.no_grad()
def merge(model: nn.Module) -> nn.Module:
    """Add the corrections to weights and biases."""
    for site, child in kit.at_sites(model, "adamss", AdaMSS):
        delta = child.delta()
        site.weight.add_(delta[:, : site.d_in])
        if site.bias is not None:
            site.bias.add_(delta[:, -1])
    kit.detach(model, "adamss")
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Run the method alone on recorded inputs, directions and clusters; for the golden vectors."""
    [(site, child)] = kit.at_sites(model, "adamss", AdaMSS)
    child.V.copy_(inputs["V"])
    child.cluster.copy_(inputs["cluster"])
    output: Tensor = site.module(inputs["x"])
    return output
