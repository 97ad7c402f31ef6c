"""S2FT: structured sparse fine-tuning (yang2024s2ft; code_s2ft).

    h = W_0 x + S x_J,    J the inputs of a few attention heads, or a few channels of the feed-forward block

Trained: S (d_out, |J|) beside the output projection of an attention (S_o) or the second weight of a feed-forward block
(S_d), zero at the start. J is drawn at random, once, and stored. The shares `o_ratio` and `d_ratio` are of the heads
and channels of all layers, which get equal numbers up to one. At inference S is added to the columns J of W_0.

The authors permute heads and channels so that J comes first, which leaves the function of the model as it is. They
draw J from all layers together.
"""

import math

import torch
from torch import Tensor, nn

from peftonomy import UsageError

from . import _kit as kit


class Units(kit.Child):
    """The change of the columns of one weight that read the chosen units: heads of `size` inputs, or channels."""

    site: kit.Site

    def __init__(self, d_out: int, units: Tensor, *, size: int, names: tuple[str, str]):
        super().__init__()
        self.names = names
        columns = (units[:, None] * size + torch.arange(size)).flatten()
        self.register_buffer(self.names[0], columns)
        self.register_parameter(self.names[1], nn.Parameter(torch.zeros(d_out, len(columns))))

    @property
    def both(self) -> tuple[Tensor, Tensor]:
        """The columns' numbers and their change."""
        return self.get_buffer(self.names[0]), self.get_parameter(self.names[1])

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        columns, change = self.both
        return y + x.index_select(-1, columns) @ change.T  # (..., |J|) -> (..., d_out)

    def delta(self) -> Tensor:
        columns, change = self.both
        return torch.zeros_like(self.site.weight).index_copy(1, columns, change)  # (d_out, d_in)


def number(ratio: float, layer: int, units: int) -> int:
    """Return how many of a layer's units are trained, so that those of all layers add up to the ratio of all."""
    return math.floor((layer + 1) * ratio * units) - math.floor(layer * ratio * units)


def apply(
    model: nn.Module,
    *,
    o_ratio: float = 0.052,
    d_ratio: float = 0.02,
    targets: tuple[str, ...] = ("attn.o", "xattn.o", "mlp.down"),
) -> nn.Module:
    """Freeze the model and train the columns of random heads and channels."""
    kit.freeze(model)
    heads = {(block.stack, block.layer): block.dims["n_heads"] for block in kit.blocks(model, "attention")}
    for site in kit.sites(model, targets):
        assert site.layer is not None
        total, ratio, names = heads[site.stack, site.layer], o_ratio, ("heads", "S_o")
        if site.role == "mlp.down":
            total, ratio, names = site.d_in, d_ratio, ("channels", "S_d")
        if count := number(ratio, site.layer, total):
            units = torch.randperm(total)[:count]
            kit.attach(site, "s2ft", Units(site.d_out, units, size=site.d_in // total, names=names))
    if not kit.attached(model, "s2ft"):
        raise UsageError(f"o_ratio {o_ratio} and d_ratio {d_ratio} select nothing; expected a head or a channel")
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the changes to the columns."""
    return kit.fold(model, "s2ft")
