"""HiRA: parameter-efficient Hadamard high-rank adaptation (huang2025hira#section-4.3).

    h = W_0 x + (W_0 * (B A)) x        * entry by entry

Trained: A (r, d_in) and B (d_out, r) on every targeted weight; B starts at zero. At inference nothing is left: W_0 is
multiplied by 1 + B A. The paper calls the factors the other way round. There is no scale.
"""

import torch
from torch import Tensor, nn

from . import _kit as kit
from .lora import LoRA


class Multiplier(LoRA):
    """The low-rank multiplier of one weight: the factors of a LoRA, read as a scale of the weight's entries."""

    site: kit.Site

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        weight = self.site.weight.detach()
        change: Tensor = self.dropout(x) @ (weight * self.delta()).T                    # (..., d_in) -> (..., d_out)
        return y + change


def apply(
    model: nn.Module, *, r: int = 32, dropout: float = 0.0,
    targets: tuple[str, ...] = (
        "attn.q", "attn.k", "attn.v", "xattn.q", "xattn.k", "xattn.v", "mlp.up", "mlp.down",
    ),
) -> nn.Module:
    """Freeze the model and put a low-rank multiplier on every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        kit.attach(site, "hira", Multiplier(site.d_in, site.d_out, r=r, alpha=r, dropout=dropout))
    return model


@torch.no_grad()
def merge(model: nn.Module) -> nn.Module:
    """Multiply the weights."""
    for site, child in kit.at_sites(model, "hira", Multiplier):
        site.weight.mul_(1 + child.delta())
    kit.detach(model, "hira")
    return model
