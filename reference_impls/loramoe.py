"""LoRAMoE: LoRA experts with a router and a localised balance (dou2024loramoe; code_loramoe).

    h = W_0 x + (alpha / r) sum over i of omega_i(x) B_i A_i x,    omega(x) = softmax(G x)

Trained, beside every targeted weight: the experts A (experts, r, d_in) and B (experts, d_out, r), and a router
G (experts, d_in). Every token uses all experts. The weights depend on the input, so nothing can be merged. A training
loop may add a multiple of `imbalance` of each module's weights to its loss; it keeps half of the experts for each of
two kinds of examples. The authors' script gives this term no weight.
"""

import torch
from torch import Tensor, nn

from . import _kit as kit
from ._mixture import Mixture


class LoRAMoE(Mixture):
    """The experts beside one weight, and their router."""

    def __init__(self, d_in: int, d_out: int, *, r: int, alpha: float, experts: int, dropout: float):
        super().__init__(d_in, d_out, r=r, alpha=alpha, experts=experts, dropout=dropout)
        bound = d_in**-0.5                                          # that of a linear layer
        nn.init.uniform_(self.A, -bound, bound)
        nn.init.uniform_(self.G, -bound, bound)


def imbalance(shares: Tensor, kinds: Tensor, *, delta: float = 0.0) -> Tensor:
    """Return how unevenly the experts of one module are used: variance over squared mean of the weighted use.

    shares: the experts' weights, (batch, positions, experts). kinds: the kind of each example, 0 or 1, (batch,). The
    use of an expert is multiplied by 1 + delta if it belongs to the kind, and by 1 - delta if not. The first half of
    the experts belongs to kind 1, the second half to kind 0.
    """
    experts = shares.shape[-1]
    first = torch.arange(experts, device=shares.device) < experts // 2          # (experts,)
    own = (kinds[:, None] == 1) == first                                        # (batch, experts)
    use = shares.sum(1) * torch.where(own, 1 + delta, 1 - delta)
    return use.var() / (use.mean() ** 2 + 1e-10)


def apply(
    model: nn.Module, *, r: int = 4, alpha: float = 32.0, experts: int = 8, dropout: float = 0.05,
    targets: tuple[str, ...] = ("mlp.*",),
) -> nn.Module:
    """Freeze the model and put a mixture of experts beside every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        child = LoRAMoE(site.d_in, site.d_out, r=r, alpha=alpha, experts=experts, dropout=dropout)
        kit.attach(site, "loramoe", child)
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the adapted module, and measure its balance on recorded inputs; for the golden vectors."""
    [(site, child)] = kit.at_sites(model, "loramoe", LoRAMoE)
    x = inputs["x"]
    balance = imbalance(child.shares(x), inputs["kinds"], delta=float(inputs["delta"]))
    return {"output": site.module(x), "balance": balance}
