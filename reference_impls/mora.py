"""MoRA: high-rank updating with a square matrix (jiang2024mora; code_mora).

    h = W_0 x + decompress(M compress(x)),    M of s x s,    s about the root of r (d_in + d_out)

Trained: one square M beside every targeted weight, with about as many numbers as LoRA of rank r; it starts at zero. The
input is cut into parts of length s; the last one is filled up from the beginning of the input. `sharing` adds the parts
up and repeats the result to the width of the output. `rotation` rotates each part by its position as rotary embeddings
do, multiplies each by M, and joins the results, repeated or cut to the width of the output. Neither operator has
parameters, so at inference the whole is added to W_0.
"""

import math

import torch
from torch import Tensor, nn

from . import _kit as kit


def side(d_in: int, d_out: int, r: int, form: str) -> int:
    """Return the side of the square matrix."""
    size = int(math.sqrt(r * (d_in + d_out)) + 0.5)
    return size // 2 * 2 if form == "rotation" else size        # rotation needs pairs


class MoRA(kit.Child):
    """The correction beside one weight of shape (d_out, d_in)."""

    def __init__(self, d_in: int, d_out: int, *, r: int, form: str, dropout: float):
        super().__init__()
        size = side(d_in, d_out, r, form)
        self.missing = -d_in % size                 # what the last part lacks
        if self.missing > d_in:
            raise ValueError(f"a square matrix of side {size} is too large for a weight of {d_out} x {d_in}")
        self.d_in, self.d_out, self.form = d_in, d_out, form
        self.M = nn.Parameter(torch.zeros(size, size))
        self.dropout = nn.Dropout(dropout)

    def rotated(self, parts: Tensor) -> Tensor:
        count, size = parts.shape[-2:]
        speed = 1.0 / 10000 ** (torch.arange(0, size, 2, device=parts.device).float() / size)
        angles = torch.outer(torch.arange(count, device=parts.device), speed).repeat(1, 2)          # (parts, size)
        swapped = torch.cat((-parts[..., size // 2 :], parts[..., : size // 2]), dim=-1)
        return parts * angles.cos().to(parts) + swapped * angles.sin().to(parts)

    def correction(self, x: Tensor) -> Tensor:
        if self.missing:
            x = torch.cat((x, x[..., : self.missing]), dim=-1)
        parts = x.unflatten(-1, (-1, len(self.M)))                          # (..., parts, size)
        low = parts.sum(-2) if self.form == "sharing" else self.rotated(parts)
        out: Tensor = low @ self.M.T
        if self.form == "rotation":
            out = out.flatten(-2)                                           # (..., parts * size)
        copies = -(-self.d_out // out.shape[-1])
        return (torch.cat([out] * copies, dim=-1) if copies > 1 else out)[..., : self.d_out]

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        return y + self.correction(self.dropout(x))

    def delta(self) -> Tensor:
        return self.correction(torch.eye(self.d_in).to(self.M)).T           # (d_out, d_in)


def apply(
    model: nn.Module, *, r: int = 8, form: str = "rotation", dropout: float = 0.05,
    targets: tuple[str, ...] = ("attn.*", "xattn.*", "mlp.*"),
) -> nn.Module:
    """Freeze the model and put a square matrix beside every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        kit.attach(site, "mora", MoRA(site.d_in, site.d_out, r=r, form=form, dropout=dropout))
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the corrections to the weights."""
    return kit.fold(model, "mora")
