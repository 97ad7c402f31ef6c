"""FedEx-LoRA: average the clients' LoRAs, and add what the averages miss to the weight (singhal2025fedex; code_fedex).

    A = mean_i A_i,    B = mean_i B_i,    W = W_0 + (alpha / r) (mean_i B_i A_i - B A),    h = W x + (alpha / r) B A x

Given: LoRAs of several clients, which trained them from the same weights. `combine` averages their factors and computes
`residual`, the difference of W and W_0. Nothing is trained. In the next round all clients train A and B further, with
W frozen. At inference the product and the residual are added to W_0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from . import _kit as kit
from . import _merging, _recipe


class Exact(_merging.Pair):
    """The averaged factors beside one weight of shape (d_out, d_in), and the change of the weight."""

    def __init__(self, d_in: int, d_out: int, *, r: int, scale: float):
        super().__init__(d_in, d_out, r=r, scale=scale)
        self.residual = nn.Parameter(torch.zeros(d_out, d_in), requires_grad=False)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        return super().after(x, y + x @ self.residual.T)

    def delta(self) -> Tensor:
        return self.residual + super().delta()

    def add(self, a: Tensor, b: Tensor, share: float) -> None:
        """Add the factors of one client and their product: a (r, d_in), b (d_out, r)."""
        self.A.add_(a, alpha=share)
        self.B.add_(b, alpha=share)
        self.residual.addmm_(b, a, alpha=self.scale * share)


def apply(
    model: nn.Module, *, tasks: int = 3, r: int = 4, alpha: float = 8.0, targets: tuple[str, ...] = ("attn.q", "attn.v")
) -> nn.Module:
    """Freeze the model and put an empty adapter and residual at every targeted weight."""
    _recipe.keep(model, "fedex_lora", tasks=tasks)
    for site in kit.sites(model, targets):
        kit.attach(site, "fedex_lora", Exact(site.d_in, site.d_out, r=r, scale=alpha / r))
    return model


@torch.no_grad()
def combine(model: nn.Module, inputs: Sequence[_merging.Input]) -> nn.Module:
    """Average the factors of the clients' LoRAs, and compute the residual."""
    _merging.settings(model, inputs, "fedex_lora")
    for _, mean in kit.at_sites(model, "fedex_lora", Exact):
        first, second = _merging.pair(mean, "fedex_lora")
        for given in inputs:
            mean.add(given[first], given[second], 1 / len(inputs))
        mean.residual.addmm_(mean.B, mean.A, alpha=-mean.scale)
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the products and the residuals to the weights."""
    return kit.fold(model, "fedex_lora")


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Combine recorded adapters of one module and run it; for the golden vectors. `square` is that of another run."""
    [(site, mean)] = kit.at_sites(model, "fedex_lora", Exact)
    combine(model, _merging.adapters(mean, "fedex_lora", inputs))
    output: Tensor = site.module(inputs["x"])
    return {"output": output, "square": output, "A": mean.A, "B": mean.B, "weight": site.weight + mean.residual}
