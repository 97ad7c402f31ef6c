"""LoRA: low-rank adaptation of large language models (hu2022lora#section-4.1).

    h = W_0 x + (alpha / r) B A x

Trained: A (r, d_in) and B (d_out, r) beside every targeted weight. At inference nothing is left: the product is
added to W_0. A starts Kaiming-uniform as in the authors' code (Gaussian in the paper) and B at zero. `lora_bias` is
peft's: a vector b (d_out) behind B, here only where the module has a bias that can take it up. On a fused projection
each targeted role has its own pair, as in loralib's MergedLinear; peft puts one pair on the whole fused module.
"""

import math

import torch
from torch import Tensor, nn

from . import _kit as kit


class LoRA(kit.Child):
    """The correction beside one weight of shape (d_out, d_in)."""

    def __init__(self, d_in: int, d_out: int, *, r: int, alpha: float, dropout: float, bias: bool = False):
        super().__init__()
        self.A = nn.Parameter(torch.empty(r, d_in))
        self.B = nn.Parameter(torch.zeros(d_out, r))
        self.b = nn.Parameter(torch.zeros(d_out)) if bias else None
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
        self.scale = alpha / r
        self.dropout = nn.Dropout(dropout)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        low: Tensor = self.dropout(x) @ self.A.T                    # (..., d_in) -> (..., r)
        return y + self.scale * nn.functional.linear(low, self.B, self.b)       # (..., r) -> (..., d_out)

    def delta(self) -> Tensor:
        return self.B @ self.A * self.scale                         # (d_out, d_in)


def apply(
    model: nn.Module, *, r: int = 8, alpha: float = 8.0, dropout: float = 0.0, lora_bias: bool = False,
    targets: tuple[str, ...] = ("attn.q", "attn.v", "xattn.q", "xattn.v"), name: str = "lora",
) -> nn.Module:
    """Freeze the model and put a low-rank correction beside every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        bias = lora_bias and site.bias is not None
        kit.attach(site, name, LoRA(site.d_in, site.d_out, r=r, alpha=alpha, dropout=dropout, bias=bias))
    return model


@torch.no_grad()
def merge(model: nn.Module, name: str = "lora") -> nn.Module:
    """Add the corrections to the weights; the model is as it was, with other numbers."""
    for site, child in kit.at_sites(model, name, LoRA):
        site.weight.add_(child.delta())
        if site.bias is not None and child.b is not None:
            site.bias.add_(child.scale * child.b)
    kit.detach(model, name)
    return model
