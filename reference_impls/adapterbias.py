"""AdapterBias: a token-dependent shift of the feed-forward block's output (fu2022adapterbias; code_adapterbias).

    y <- W_0 x + b_0 + (w^T x + c) v

with x the input and y the output of the last projection of a feed-forward block.

Trained: w (d_in,) and c (1,), which give every token a number, and v (d_out,), the direction of the shift, beside every
targeted module; and the norms of the feed-forward blocks and of the embeddings. v starts at zero. The number depends
on the token, so all of it stays at inference, except for the norms, which are the model's own.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from . import _kit as kit


class AdapterBias(kit.Child):
    """The shift of one module's output."""

    def __init__(self, d_in: int, d_out: int):
        super().__init__()
        self.w = nn.Parameter(0.02 * torch.randn(d_in))
        self.c = nn.Parameter(torch.zeros(1))
        self.v = nn.Parameter(torch.zeros(d_out))

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        amount = linear(x, self.w[None], self.c)                    # (..., d_in) -> (..., 1)
        return y + amount * self.v                                  # (..., d_out)


def apply(model: nn.Module, *, targets: tuple[str, ...] = ("mlp.down",)) -> nn.Module:
    """Freeze the model except for some norms, and shift the output of every targeted module."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        kit.attach(site, "adapterbias", AdapterBias(site.d_in, site.d_out))
    for weight in kit.weights(model):
        if weight.role in ("norm.mlp", "norm.embed"):
            weight.value.requires_grad_(True)
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Run the method alone on recorded inputs; for the golden vectors."""
    output: Tensor = kit.blocks(model, "layer")[0].module(inputs["x"])
    return output
