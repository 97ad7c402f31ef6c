"""Sequential adapter: parameter-efficient transfer learning for NLP (houlsby2019adapter#section-2.1).

    h <- h + W_up gelu(W_down h + b_down) + b_up

A bottleneck with a skip connection follows the last linear map of every attention and of every feed-forward
block, before the residual is added. Trained: W_down (bottleneck, d_out), W_up (d_out, bottleneck), both nearly
zero at the start, their biases and, with `train_norms`, every norm of the model, as in the paper and its code. At
inference all of it remains: the GELU lets nothing be folded into the weights (the trained norms just take the
place of the old ones).

As in the official code the GELU is its tanh form. That code comes after the sublayer's dropout, this before it. The
adapters library's `double_seq_bn` uses swish and leaves the norms frozen; the code of He et al. uses ReLU and gives the
attention adapter a norm of its own. With targets ("mlp.down",) this has as many parameters as `pfeiffer_adapter`.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear

from . import _kit as kit


class SequentialAdapter(kit.Child):
    """The adapter behind one linear map."""

    def __init__(self, d_out: int, *, bottleneck: int):
        super().__init__()
        self.W_down = nn.Parameter(torch.empty(bottleneck, d_out))
        self.b_down = nn.Parameter(torch.zeros(bottleneck))
        self.W_up = nn.Parameter(torch.empty(d_out, bottleneck))
        self.b_up = nn.Parameter(torch.zeros(d_out))
        for weight in (self.W_down, self.W_up):
            nn.init.trunc_normal_(weight, std=1e-3, a=-2e-3, b=2e-3)

    def after(self, _: Tensor, h: Tensor) -> Tensor:
        z = linear(h, self.W_down, self.b_down)                     # (..., d_out) -> (..., bottleneck)
        z = gelu(z, approximate="tanh")
        return h + linear(z, self.W_up, self.b_up)                  # (..., bottleneck) -> (..., d_out)


def apply(
    model: nn.Module, *, bottleneck: int = 64, train_norms: bool = True,
    targets: tuple[str, ...] = ("attn.o", "mlp.down"), name: str = "sequential_adapter",
) -> nn.Module:
    """Freeze the model but for its norms, and put an adapter behind every targeted linear map."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        kit.attach(site, name, SequentialAdapter(site.d_out, bottleneck=bottleneck))
    for weight in kit.weights(model) if train_norms else ():
        if weight.kind == "norm":
            weight.value.requires_grad_(True)
    return model
