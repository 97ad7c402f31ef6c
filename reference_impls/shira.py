"""SHiRA: sparse high-rank adapters (bhardwaj2024shira).

    h = (W_0 + S) x,    S zero but at r (d_in + d_out) fixed positions, as many as LoRA of rank r has numbers

Trained: the values at the positions, which are drawn at random, once, before training (SHiRA-Rand; the paper also
chooses them by the size of the weight, the gradient or both, or in stripes). Stored: values and positions. At
inference nothing is left: the values are added to W_0, and taken off again to switch tasks. peft holds a row and a
column for each position where this holds one number.
"""

import torch
from torch import Tensor, nn

from . import _kit as kit


class SHiRA(kit.Child):
    """The sparse correction of one weight of shape (d_out, d_in)."""

    positions: Tensor

    def __init__(self, d_in: int, d_out: int, *, positions: Tensor):
        super().__init__()
        self.shape = d_out, d_in
        self.values = nn.Parameter(torch.zeros(len(positions)))
        self.register_buffer("positions", positions)                # into the flattened weight

    def delta(self) -> Tensor:
        flat = self.values.new_zeros(self.shape[0] * self.shape[1])
        return flat.index_put((self.positions,), self.values).view(self.shape)      # (d_out, d_in)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        return y + x @ self.delta().T                               # (..., d_in) -> (..., d_out)


def apply(
    model: nn.Module, *, r: int = 32, targets: tuple[str, ...] = ("attn.q", "attn.v", "xattn.q", "xattn.v")
) -> nn.Module:
    """Freeze the model and train r (d_in + d_out) entries of every targeted weight, drawn at random."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        positions = torch.randperm(site.d_in * site.d_out)[: r * (site.d_in + site.d_out)].clone()
        kit.attach(site, "shira", SHiRA(site.d_in, site.d_out, positions=positions))
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the values to the weights."""
    return kit.fold(model, "shira")
