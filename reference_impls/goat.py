"""GOAT: LoRA experts that start as segments of the weight's singular values (fan2025goat; code_goat).

    W_0 = U S V^T,   s B_i A_i = U_i S_i V_i^T / rho at the start,   i = 1..N
    h = (W_0 - (s / N) sum over i of B_i A_i at the start) x + s sum over the k best i of omega_i(x) B_i A_i x

Trained, beside every targeted weight: the experts A (N, r / N, d_in) and B (N, d_out, r / N), and a router G (N, d_in).
The singular values are divided into N segments of equal length, and expert i starts as the r / N largest of segment i.
The weights omega are a softmax of G x over the `top_k` experts with the largest ones. s is `alpha` / (r / N), or
sqrt(3 d_in / (r / N)) if the scale is derived. The weights depend on the input, so nothing can be merged. A training
loop may add a multiple of `imbalance` of each module to its loss.
"""

import torch
from torch import Tensor, nn

from . import _kit as kit
from .mola import MoLA


class GOAT(MoLA):
    """The experts on one weight, and their router."""

    def __init__(
        self, d_in: int, d_out: int, *, r: int, alpha: float, experts: int, top_k: int, scale: str, dropout: float
    ):
        own = r // experts                                          # the rank of one expert
        super().__init__(d_in, d_out, r=own, alpha=alpha, experts=experts, top_k=top_k, dropout=dropout)
        if scale == "derived":
            self.scale = (3 * d_in / own) ** 0.5

    def imbalance(self, x: Tensor) -> Tensor:
        """Return the balance as the authors sum it: `top_k` if all experts are used alike."""
        return self.top_k * super().imbalance(x)

    @torch.no_grad()
    def start(self, weight: Tensor, rho: float) -> Tensor:
        """Start the experts as parts of the weight (d_out, d_in). Return their scaled mean, of the same shape."""
        u, s, v = torch.linalg.svd(weight, full_matrices=False)
        experts, own, _ = self.A.shape
        first = torch.arange(experts)[:, None] * (len(s) // experts) + torch.arange(own)    # (experts, own)
        root = (s[first] / (self.scale * rho)).sqrt()
        self.A.copy_(root[..., None] * v[first])
        self.B.copy_(u[:, first].transpose(0, 1) * root[:, None])                           # (experts, d_out, own)
        return self.scale / experts * torch.einsum("nor,nrd->od", self.B, self.A)


def apply(
    model: nn.Module, *, r: int = 8, alpha: float = 16.0, experts: int = 8, top_k: int = 2, rho: float = 10.0,
    scale: str = "plain", dropout: float = 0.05, targets: tuple[str, ...] = ("attn.*", "xattn.*", "mlp.*"),
) -> nn.Module:
    """Freeze the model, and turn a part of every targeted weight into experts."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        if r > min(site.d_in, site.d_out):
            raise ValueError(f"rank {r} is larger than that of a weight of {site.d_out} x {site.d_in}")
        child = GOAT(
            site.d_in, site.d_out, r=r, alpha=alpha, experts=experts, top_k=top_k, scale=scale, dropout=dropout
        )
        kit.attach(site, "goat", child)
        with torch.no_grad():
            site.weight.sub_(child.start(site.weight, rho))
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the adapted module, and measure its balance; for the golden vectors."""
    [(site, child)] = kit.at_sites(model, "goat", GOAT)
    return {"output": site.module(inputs["x"]), "balance": child.imbalance(inputs["x"])}
