"""DiaBlo: fine-tuning of diagonal blocks (gurses2025diablo; code_diablo).

    h = W_0 x + diag(D_1, ..., D_n)^T x

Trained: D (n, d_in / n, d_out / n) beside every targeted weight, which starts at zero. Block i connects part i of the
input with part i of the output. If n does not divide a side, parts are rounded up and the last ones are cut off. At
inference the blocks are added to the weight.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from . import _kit as kit


class Blocks(kit.Child):
    """The diagonal blocks of the change of one weight of shape (d_out, d_in)."""

    def __init__(self, d_in: int, d_out: int, *, n: int, dropout: float):
        super().__init__()
        high, wide = -(-d_in // n), -(-d_out // n)
        n = max(-(-d_in // high), -(-d_out // wide))
        self.D = nn.Parameter(torch.zeros(n, high, wide))
        self.d_in, self.d_out = d_in, d_out
        self.dropout = nn.Dropout(dropout)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        n, high, _ = self.D.shape
        x = self.dropout(x)
        if n * high > self.d_in:
            x = pad(x, (0, n * high - self.d_in))
        parts = torch.einsum("...ni,nio->...no", x.unflatten(-1, (n, high)), self.D)
        return y + parts.flatten(-2)[..., : self.d_out]

    def delta(self) -> Tensor:
        whole: Tensor = torch.block_diag(*self.D)                   # (n d_in / n, n d_out / n), rounded up
        return whole[: self.d_in, : self.d_out].T


def apply(
    model: nn.Module, *, n: int = 64, dropout: float = 0.05,
    targets: tuple[str, ...] = (
        "attn.q", "attn.k", "attn.v", "xattn.q", "xattn.k", "xattn.v", "mlp.up", "mlp.down",
    ),
) -> nn.Module:
    """Freeze the model and put diagonal blocks beside every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        kit.attach(site, "diablo", Blocks(site.d_in, site.d_out, n=n, dropout=dropout))
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the blocks to the weights."""
    return kit.fold(model, "diablo")
