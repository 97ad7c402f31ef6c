"""Hadamard adapter: an extreme parameter-efficient adapter (chen2023hadamard).

    A <- w * A + b    with A what the self-attention puts out

Each dimension of the attention's output is scaled and shifted, and the norm of that block is trained along.
The head is trained first, alone, and then kept. Trained: w and b (d_model,) in the layers from `skip` on, and
there the gain and bias of the attention's norm. At inference nothing is left: w and b go into the output projection.

Nobody here has read the paper's text on the place; pages about it say behind the attention and before the norm, which
is the output projection's result here. Where that projection has no bias (T5, LLaMA) there is no b, since it could
not be merged. In models that normalise first, the norm of the block is the one before the attention.
"""

from typing import cast

import torch
from torch import Tensor, nn

from . import _kit as kit


class HadamardAdapter(kit.Child):
    """The scale and shift of one attention's output."""

    b: Tensor | None

    def __init__(self, d_out: int, *, shift: bool):
        super().__init__()
        self.w = nn.Parameter(torch.ones(d_out))
        self.b = nn.Parameter(torch.zeros(d_out)) if shift else None

    def after(self, _: Tensor, a: Tensor) -> Tensor:
        scaled = self.w * a                                         # (..., d_out)
        return scaled if self.b is None else scaled + self.b


def apply(
    model: nn.Module, *, skip: int = 0, targets: tuple[str, ...] = ("attn.o",), name: str = "hadamard_adapter"
) -> nn.Module:
    """Freeze the model but for the attentions' norms, and scale and shift the attentions' outputs."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        if cast(int, site.layer) >= skip:
            kit.attach(site, name, HadamardAdapter(site.d_out, shift=site.bias is not None))
    for weight in kit.weights(model):
        if weight.role == "norm.attn" and cast(int, weight.layer) >= skip:
            weight.value.requires_grad_(True)
    return model


@torch.no_grad()
def merge(model: nn.Module, name: str = "hadamard_adapter") -> nn.Module:
    """Put scale and shift into the output projections."""
    for site, child in kit.at_sites(model, name, HadamardAdapter):
        site.weight.mul_(child.w[:, None])
        if site.bias is not None and child.b is not None:
            site.bias.mul_(child.w).add_(child.b)
    kit.detach(model, name)
    return model
