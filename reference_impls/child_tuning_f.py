"""Child-Tuning_F: a random child network at every step (xu2021childtuning).

    theta <- theta - eta * (M * g) / p,    M ~ Bernoulli(p) anew for every step

Trained: every pretrained parameter, in the long run; one step moves a fraction p (`kept`) of the entries.
Dividing by p keeps the expected gradient. At inference and in storage: a full model. The authors mask inside
their AdamW, once per optimiser step; here a hook masks each backward pass, which is the same unless gradients
are accumulated.
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
