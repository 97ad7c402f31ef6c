"""RoCoFT: row-column fine-tuning (kowsher2024rocoft; code_rocoft).

    h = W x + b,   W = W_0 with R in the place of its first r rows, or C in that of its first r columns

Trained: R (r, d_in) or C (d_out, r) of every targeted weight, and a copy b of its bias if there is one. All start as in
the pretrained model. At inference nothing is left: they are written into the weight and the bias.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from . import _kit as kit


class Trained(kit.Child):
    """The trained rows or columns of one weight of shape (d_out, d_in), and its bias."""

    site: kit.Site

    def __init__(self, weight: Tensor, bias: Tensor | None, *, r: int, axis: str):
        super().__init__()
        d_out, d_in = weight.shape
        if r > (d_out if axis == "row" else d_in):
            raise ValueError(f"a weight of {d_out} x {d_in} has fewer than {r} {axis}s")
        self.r = r
        self.R = nn.Parameter(weight.detach()[:r].clone()) if axis == "row" else None
        self.C = nn.Parameter(weight.detach()[:, :r].clone()) if axis == "column" else None
        self.b = None if bias is None else nn.Parameter(bias.detach().clone())

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        weight = self.site.weight
        if self.R is not None:
            y = y + pad(x @ (self.R - weight[: self.r]).T, (0, len(weight) - self.r))       # (..., r) -> (..., d_out)
        if self.C is not None:
            y = y + x[..., : self.r] @ (self.C - weight[:, : self.r]).T                     # (..., r) -> (..., d_out)
        if self.b is not None and self.site.bias is not None:
            y = y + (self.b - self.site.bias)
        return y


def apply(
    model: nn.Module, *, r: int = 1, axis: str = "row", train_bias: bool = True,
    targets: tuple[str, ...] = ("attn.*", "xattn.*", "mlp.*"),
) -> nn.Module:
    """Freeze the model and train the first r rows or columns of every targeted weight, and its bias."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        bias = site.bias if train_bias else None
        kit.attach(site, "rocoft", Trained(site.weight, bias, r=r, axis=axis))
    return model


@torch.no_grad()
def merge(model: nn.Module) -> nn.Module:
    """Write the rows, columns and biases into the model."""
    for site, child in kit.at_sites(model, "rocoft", Trained):
        if child.R is not None:
            site.weight[: child.r] = child.R
        if child.C is not None:
            site.weight[:, : child.r] = child.C
        if child.b is not None and site.bias is not None:
            site.bias.copy_(child.b)
    kit.detach(model, "rocoft")
    return model
