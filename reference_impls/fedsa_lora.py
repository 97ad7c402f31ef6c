"""FedSA-LoRA: clients share the first factor of LoRA and keep the second (guo2025fedsa; code_fedsa_lora).

    A = sum_i p_i A_i,    h = W_0 x + (alpha / r) B_j A x        at client j

Trained: A (r, d_in) and B (d_out, r) beside every targeted weight, by each client on its own data. `combine` is the
exchange after a round: A becomes the average of all clients' and B stays the client's own. p_i is the share of client i
in the examples of a round. At inference a client adds its product to W_0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from . import _kit as kit
from . import _merging, _recipe, lora


def apply(
    model: nn.Module, *, tasks: int = 3, r: int = 8, alpha: float = 16.0, dropout: float = 0.05,
    targets: tuple[str, ...] = ("attn.q", "attn.v"),
) -> nn.Module:
    """Freeze the model and put a LoRA beside every targeted weight."""
    _recipe.keep(model, "fedsa_lora", tasks=tasks)
    for site in kit.sites(model, targets):
        kit.attach(site, "fedsa_lora", lora.LoRA(site.d_in, site.d_out, r=r, alpha=alpha, dropout=dropout))
    return model


@torch.no_grad()
def combine(
    model: nn.Module, inputs: Sequence[_merging.Input], client: int = 0, examples: Sequence[float] | None = None
) -> nn.Module:
    """Average the first factors of all clients, and give the model the second factors of one client.

    examples: the clients' numbers of examples, equal by default.
    """
    _merging.settings(model, inputs, "fedsa_lora")
    shares = _merging.shares(inputs, examples)
    for _, own in kit.at_sites(model, "fedsa_lora", lora.LoRA):
        first, second = _merging.pair(own, "fedsa_lora")
        own.A.zero_()
        for given, share in zip(inputs, shares, strict=True):
            own.A.add_(given[first], alpha=share)
        own.B.copy_(inputs[client][second])
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the products to the weights."""
    return kit.fold(model, "fedsa_lora")


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Exchange recorded adapters of one module, and run that of the second client; for the golden vectors."""
    [(site, own)] = kit.at_sites(model, "fedsa_lora", lora.LoRA)
    combine(model, _merging.adapters(own, "fedsa_lora", inputs), 1, inputs["examples"].tolist())
    return {"output": site.module(inputs["x"]), "A": own.A, "B": own.B}
