"""FLoRA: federated LoRA by stacking the clients' factors (wang2024florafed; code_flora_federated).

    A = [p_1 A_1; ...; p_k A_k],    B = [B_1, ..., B_k],    h = W_0 x + (alpha / r) B A x

Given: LoRAs of k clients, which trained them from the same weights. `combine` stacks their factors, so that the product
is the weighted sum of the clients' products. p_i is the share of client i in the training examples. Nothing is trained.
The product is added to W_0, and the next round starts with new LoRAs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from . import _kit as kit
from . import _merging, _recipe


def apply(
    model: nn.Module, *, tasks: int = 10, r: int = 16, alpha: float = 32.0,
    targets: tuple[str, ...] = ("attn.q", "attn.v"),
) -> nn.Module:
    """Freeze the model and put places for the factors of all clients beside every targeted weight."""
    _recipe.keep(model, "flora_federated", tasks=tasks)
    for site in kit.sites(model, targets):
        kit.attach(site, "flora_federated", _merging.Pair(site.d_in, site.d_out, r=tasks * r, scale=alpha / r))
    return model


@torch.no_grad()
def combine(
    model: nn.Module, inputs: Sequence[_merging.Input], examples: Sequence[float] | None = None
) -> nn.Module:
    """Stack the factors of the clients' LoRAs. `examples` are the clients' numbers of examples, equal by default."""
    _merging.settings(model, inputs, "flora_federated")
    shares = _merging.shares(inputs, examples)
    for _, stack in kit.at_sites(model, "flora_federated", _merging.Pair):
        first, second = _merging.pair(stack, "flora_federated")
        parts = zip(stack.A.chunk(len(inputs)), stack.B.chunk(len(inputs), 1), inputs, shares, strict=True)
        for a, b, given, share in parts:
            a.copy_(given[first]).mul_(share)
            b.copy_(given[second])
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the products to the weights."""
    return kit.fold(model, "flora_federated")


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Combine recorded adapters of one module and run it; for the golden vectors."""
    [(site, stack)] = kit.at_sites(model, "flora_federated", _merging.Pair)
    combine(model, _merging.adapters(stack, "flora_federated", inputs), inputs["examples"].tolist())
    return {"output": site.module(inputs["x"]), "A": stack.A, "B": stack.B}
