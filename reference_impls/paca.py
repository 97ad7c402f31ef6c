"""PaCA: partial connection adaptation (woo2025paca; code_paca).

    h = W_0 x + (s P - W_J) x_J,   s = alpha / r,   W_J the columns of W_0 for the inputs J

Trained: P (d_out, r), which takes the place of r columns of every targeted weight; it starts as these columns divided
by s. J (r) is drawn at random, once, before training, and stored. Only x_J is kept for the gradient of P. At inference
nothing is left: s P is written into the weight. The authors' code writes it there in training too.
"""

import torch
from torch import Tensor, nn

from . import _kit as kit


class Columns(kit.Child):
    """The trained columns of one weight of shape (d_out, d_in)."""

    J: Tensor
    site: kit.Site

    def __init__(self, weight: Tensor, *, r: int, alpha: float):
        super().__init__()
        d_in = weight.shape[1]
        if r > d_in:
            raise ValueError(f"{r} columns do not fit a weight with {d_in}")
        self.scale = alpha / r
        self.register_buffer("J", torch.randperm(d_in)[:r].clone())
        self.P = nn.Parameter(weight.detach()[:, self.J] / self.scale)

    def change(self) -> Tensor:
        """Return the change of the columns, (d_out, r)."""
        return self.scale * self.P - self.site.weight.index_select(1, self.J)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        return y + x.index_select(-1, self.J) @ self.change().T     # (..., r) -> (..., d_out)

    def delta(self) -> Tensor:
        return torch.zeros_like(self.site.weight).index_copy(1, self.J, self.change())      # (d_out, d_in)


def apply(
    model: nn.Module, *, r: int = 8, alpha: float = 16.0, targets: tuple[str, ...] = ("attn.*", "xattn.*", "mlp.*")
) -> nn.Module:
    """Freeze the model and train r columns of every targeted weight, drawn at random."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        kit.attach(site, "paca", Columns(site.weight, r=r, alpha=alpha))
    return model


def merge(model: nn.Module) -> nn.Module:
    """Write the columns into the weights."""
    return kit.fold(model, "paca")
