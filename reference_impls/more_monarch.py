"""MoRe: Monarch rectangular fine-tuning (tan2024more; code_more).

    h = W_0 x + P_2 diag(L_1, L_2, ...) P_1 diag(R_1, R_2, ...) x

Trained: k blocks R (r, d_in / k) and as many L (d_out / k, r) beside every targeted weight. P_1 sends the components
with the same remainder of k to one block, and P_2 puts the outputs of the blocks side by side again. L starts at zero.
With one block it is LoRA. At inference the product is added to W_0.
"""

import math

import torch
from torch import Tensor, nn

from . import _kit as kit


class MoRe(kit.Child):
    """The correction beside one weight of shape (d_out, d_in)."""

    def __init__(self, d_in: int, d_out: int, *, nblocks: int, r: int, dropout: float):
        super().__init__()
        if d_in % nblocks or d_out % nblocks:
            raise ValueError(f"{nblocks} blocks do not divide a weight of {d_out} x {d_in}")
        bound = 1 / math.sqrt(d_in // nblocks)
        self.R = nn.Parameter(torch.empty(nblocks, r, d_in // nblocks).uniform_(-bound, bound))
        self.L = nn.Parameter(torch.zeros(nblocks, d_out // nblocks, r))
        self.dropout = nn.Dropout(dropout)

    def change(self, x: Tensor) -> Tensor:
        """Apply the two factors to rows of x."""
        k, r, _ = self.R.shape
        low = torch.einsum("...kp,kqp->...kq", x.unflatten(-1, (k, -1)), self.R).flatten(-2)      # (..., k r)
        high: Tensor = torch.einsum("...kp,kqp->...kq", low.unflatten(-1, (r, k)).mT, self.L)
        return high.mT.flatten(-2)                                  # (..., k, d_out / k) -> (..., d_out)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        changed: Tensor = self.dropout(self.change(x))
        return y + changed

    def delta(self) -> Tensor:
        k, _, width = self.R.shape
        return self.change(torch.eye(k * width).to(self.R)).T       # (d_out, d_in)


def apply(
    model: nn.Module, *, nblocks: int = 4, r: int = 4, dropout: float = 0.0,
    targets: tuple[str, ...] = ("attn.q", "attn.k", "attn.v"),
) -> nn.Module:
    """Freeze the model and put a Monarch matrix beside every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        kit.attach(site, "more_monarch", MoRe(site.d_in, site.d_out, nblocks=nblocks, r=r, dropout=dropout))
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the corrections to the weights."""
    return kit.fold(model, "more_monarch")
