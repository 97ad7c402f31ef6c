"""Propulsion: steering by powers of learned scales (kowsher2024propulsion; code_propulsion).

    h = (W x + b) * p^degree

Trained: p (d_out), all ones at first, for every targeted module. At inference nothing is left: the powers are folded
into the rows of the weight and into the bias. The authors' code also trains the biases, and without a list of modules
it scales embeddings and the head as well.
"""

import torch
from torch import Tensor, nn

from . import _kit as kit


class Scale(kit.Child):
    """The scales of one module's outputs."""

    def __init__(self, d_out: int, *, degree: int):
        super().__init__()
        self.degree = degree
        self.p = nn.Parameter(torch.ones(d_out))

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        return y * self.p**self.degree                              # (..., d_out)


def apply(
    model: nn.Module, *, degree: int = 5, targets: tuple[str, ...] = ("attn.*", "xattn.*", "mlp.*")
) -> nn.Module:
    """Freeze the model and scale the outputs of the targeted modules."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        kit.attach(site, "propulsion", Scale(site.d_out, degree=degree))
    return model


@torch.no_grad()
def merge(model: nn.Module) -> nn.Module:
    """Fold the powers into weights and biases."""
    for site, child in kit.at_sites(model, "propulsion", Scale):
        power = child.p**child.degree
        site.weight.mul_(power[:, None])                            # rows
        if site.bias is not None:
            site.bias.mul_(power)
    kit.detach(model, "propulsion")
    return model
