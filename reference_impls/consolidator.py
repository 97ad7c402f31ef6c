"""Consolidator: grouped linear layers that merge (hao2023consolidator).

    y <- y + drop_path(G S x + c),    G: one block (d_out / groups, d_in / groups) for each group of channels

S is the channel reorder: it writes the channels as a matrix with a row for each group, and reads it column by column.
Without it, a group reads neighbouring channels (code_consolidator#model/vision_transformer_timm.py:Consolidator).

Trained: G (d_out, d_in / groups) and c (d_out,) at every targeted module, and the model's own biases of attentions and
feed-forward blocks, and its norms. Before storage c is added to the module's bias. At inference nothing is left: the
blocks are added to the weight.
"""

import torch
from torch import Tensor, nn

from peftonomy import UsageError

from . import _kit as kit
from ._image import require_images

INIT = 1e-3
"""Weights and biases start uniform within this bound."""


class Groups(kit.Child):
    """The grouped layer beside one module."""

    c: nn.Parameter | None
    site: kit.Site

    def __init__(self, d_in: int, d_out: int, *, groups: int, shuffle: bool, drop_path: float):
        super().__init__()
        self.G = nn.Parameter(torch.empty(d_out, d_in // groups).uniform_(-INIT, INIT))
        self.c = nn.Parameter(torch.empty(d_out).uniform_(-INIT, INIT))
        self.groups, self.shuffle, self.drop_path = groups, shuffle, drop_path

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        if self.shuffle:
            x = x.unflatten(-1, (self.groups, -1)).transpose(-1, -2).flatten(-2)
        blocks = self.G.unflatten(0, (self.groups, -1))                         # (groups, d_out / groups, ...)
        z = torch.einsum("...gi,goi->...go", x.unflatten(-1, (self.groups, -1)), blocks).flatten(-2)
        if self.c is not None:
            z = z + self.c
        if self.training and self.drop_path:
            kept = 1 - self.drop_path
            z = z * (z.new_empty(len(z), *[1] * (z.dim() - 1)).bernoulli_(kept) / kept)
        return y + z

    def delta(self) -> Tensor:
        blocks: Tensor = torch.block_diag(*self.G.unflatten(0, (self.groups, -1)))      # (d_out, d_in), reordered
        if self.shuffle:
            blocks = blocks.unflatten(1, (-1, self.groups)).transpose(1, 2).flatten(1)
        return blocks


def apply(
    model: nn.Module, *, groups: int = 384, shuffle: bool = True, drop_path: float = 0.0,
    targets: tuple[str, ...] = ("attn.q", "attn.k", "attn.v", "attn.o", "mlp.up", "mlp.down"),
) -> nn.Module:  # fmt: skip
    """Freeze the model except its biases and norms, and put a grouped layer beside every targeted module.

    Raises UsageError for a model of text, for a module without a bias, and where groups do not divide the sizes.
    """
    require_images(model)
    kit.freeze(model)
    for site in kit.sites(model, targets):
        if site.bias is None:
            raise UsageError(f"{site.path}: found no bias; expected one, to which the grouped layer's is added")
        if site.d_in % groups or site.d_out % groups:
            raise UsageError(f"{site.path}: found {site.d_out} by {site.d_in}; expected multiples of groups={groups}")
        child = Groups(site.d_in, site.d_out, groups=groups, shuffle=shuffle, drop_path=drop_path)
        kit.attach(site, "consolidator", child)
    for weight in kit.weights(model):
        bias = weight.name.endswith(".bias") and weight.role.startswith(("attn.", "mlp."))
        if weight.pretrained and (bias or weight.kind == "norm"):
            weight.value.requires_grad_(True)
    return model


@torch.no_grad()
def finish(model: nn.Module) -> nn.Module:
    """Add each layer's bias to that of its module."""
    for site, child in kit.at_sites(model, "consolidator", Groups):
        if child.c is not None and site.bias is not None:
            site.bias.add_(child.c)
            child.c = None
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the blocks to the weights, and the biases to the biases."""
    return kit.fold(finish(model), "consolidator")
