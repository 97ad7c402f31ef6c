"""Child-Tuning_F: a random child network at every step (xu2021childtuning).

    theta <- theta - eta * (M * g) / p,    M ~ Bernoulli(p) anew for every step

Trained: every pretrained parameter, in the long run; one step moves a fraction p (`kept`) of the entries.
Dividing by p keeps the expected gradient. At inference and in storage: a full model. The authors mask inside
their AdamW, once per optimiser step; here a hook masks each backward pass. That is the same unless gradients are
accumulated, or clipped: their trainer clips before the mask, a training loop here clips after it.
"""

from functools import partial

import torch
from torch import Tensor, nn

from . import _kit as kit


def masked(gradient: Tensor, kept: float) -> Tensor:
    """The gradient with all but a random fraction `kept` of its entries zero, and equal in expectation."""
    return gradient * torch.bernoulli(torch.full_like(gradient, kept)) / kept


def apply(model: nn.Module, *, kept: float = 0.3) -> nn.Module:
    """Mask the gradient of every pretrained parameter from now on."""
    kit.freeze(model)
    for weight in kit.weights(model):
        if weight.pretrained:
            weight.value.requires_grad_(True).register_hook(partial(masked, kept=kept))
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Send a recorded gradient to one parameter many times; for the golden vectors.

    Returns the factors by which entries arrive, and the share of entries that arrive at all.
    """
    weight = next(w.value for w in kit.weights(model) if w.pretrained)
    gradient, factors = inputs["gradient"], []
    for _ in range(int(inputs["draws"])):
        [arrived] = torch.autograd.grad((weight * gradient).sum(), [weight])
        factors.append((arrived / gradient).round(decimals=6))
    seen = torch.stack(factors)                                     # (draws, *shape)
    return {"output": seen.unique(), "share": (seen != 0).double().mean()}
