"""MoLA: more LoRA experts in higher layers (gao2024mola; code_mola).

    h = W_0 x + (alpha / r) sum over the k best i of omega_i(x) B_i A_i x,    omega(x) = softmax over these of G x

Trained, beside every targeted weight: the experts A (n, r, d_in) and B (n, d_out, r), and a router G (n, d_in), with
n = experts + growth * (layer // group). Each token uses the `top_k` experts with the largest weights. The weights
depend on the input, so nothing can be merged. A training loop may add a multiple of `imbalance` of each module to its
loss.
"""

import torch
from torch import Tensor, nn

from . import _kit as kit
from ._mixture import Mixture


class MoLA(Mixture):
    """The experts beside one weight, and their router."""

    def __init__(self, d_in: int, d_out: int, *, r: int, alpha: float, experts: int, top_k: int, dropout: float):
        super().__init__(d_in, d_out, r=r, alpha=alpha, experts=experts, dropout=dropout)
        if top_k > experts:
            raise ValueError(f"a token cannot use {top_k} of {experts} experts")
        bound = d_in**-0.5                                          # that of a linear layer
        nn.init.uniform_(self.A, -bound, bound)
        nn.init.uniform_(self.G, -bound, bound)
        self.top_k = top_k

    def shares(self, x: Tensor) -> Tensor:
        """Return the weights of the experts for each token, zero for those not chosen, (..., experts)."""
        every = super().shares(x)
        best, chosen = every.topk(self.top_k)                       # (..., top_k)
        best = best / best.sum(-1, keepdim=True)
        return torch.zeros_like(every).scatter(-1, chosen, best)

    def imbalance(self, x: Tensor) -> Tensor:
        """Return the sum over the experts of their parts of the choices times their mean weights, times their number.

        It is 1 if all experts are used alike, and larger if some are preferred.
        """
        every = super().shares(x).flatten(0, -2)                    # (tokens, experts)
        parts = torch.zeros_like(every).scatter(-1, every.topk(self.top_k).indices, 1.0).sum(0)
        return (parts / parts.sum() * every.mean(0)).sum() * every.shape[-1]


def apply(
    model: nn.Module, *, r: int = 8, alpha: float = 16.0, experts: int = 2, growth: int = 2, group: int = 8,
    top_k: int = 2, dropout: float = 0.05, targets: tuple[str, ...] = ("attn.*", "xattn.*", "mlp.*"),
) -> nn.Module:
    """Freeze the model and put experts beside every targeted weight, more of them the higher the layer is."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        assert site.layer is not None
        here = experts + growth * (site.layer // group)
        child = MoLA(site.d_in, site.d_out, r=r, alpha=alpha, experts=here, top_k=top_k, dropout=dropout)
        kit.attach(site, "mola", child)
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the adapted module, and measure its balance; for the golden vectors."""
    [(site, child)] = kit.at_sites(model, "mola", MoLA)
    return {"output": site.module(inputs["x"]), "balance": child.imbalance(inputs["x"])}
