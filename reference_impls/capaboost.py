"""CapaBoost: parallel weight-tied modules with static random masks, here of LoRA (song2024capaboost; code_capaboost).

    h = W_0 x + (alpha / r) sum over i of (N_i * B) (M_i * A) x        * entry by entry

Trained: A (r, d_in) and B (d_out, r) beside every targeted weight, which all copies share. B starts at zero. Frozen:
the masks M (copies, r, d_in) and N (copies, d_out, r), each with a share `density` of ones, drawn from torch's
generator, so a seed stores them. At inference the sum is added to W_0. A starts uniform within 1 / sqrt(r), as in the
authors' code.
"""

import torch
from torch import Tensor, nn

from . import _kit as kit


def masks(n: int, rows: int, columns: int, density: float) -> Tensor:
    """Draw n masks with equally many ones."""
    size = rows * columns
    kept = torch.stack([torch.randperm(size) < int(size * density) for _ in range(n)])
    drawn: Tensor = kept.unflatten(1, (rows, columns)).to(torch.get_default_dtype())
    return drawn


class CapaBoost(kit.Child):
    """The copies beside one weight of shape (d_out, d_in)."""

    M: Tensor
    N: Tensor

    def __init__(
        self, d_in: int, d_out: int, *, r: int, alpha: float, dropout: float, copies: int, density: float
    ):
        super().__init__()
        self.A = nn.Parameter(torch.empty(r, d_in).uniform_(-(r**-0.5), r**-0.5))
        self.B = nn.Parameter(torch.zeros(d_out, r))
        self.register_buffer("M", masks(copies, r, d_in, density))
        self.register_buffer("N", masks(copies, d_out, r, density))
        self.scale = alpha / r
        self.dropout = nn.Dropout(dropout)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        for m, n in zip(self.M, self.N, strict=True):
            low: Tensor = self.dropout(x) @ (self.A * m).T          # (..., d_in) -> (..., r)
            y = y + self.scale * (low @ (self.B * n).T)             # (..., r) -> (..., d_out)
        return y

    def delta(self) -> Tensor:
        return self.scale * ((self.B * self.N) @ (self.A * self.M)).sum(0)          # (d_out, d_in)


def apply(
    model: nn.Module, *, r: int = 8, alpha: float = 16.0, dropout: float = 0.0, copies: int = 2, density: float = 0.5,
    targets: tuple[str, ...] = ("attn.q", "attn.v", "xattn.q", "xattn.v"),
) -> nn.Module:
    """Freeze the model, and put masked copies of a low-rank correction beside every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        child = CapaBoost(
            site.d_in, site.d_out, r=r, alpha=alpha, dropout=dropout, copies=copies, density=density
        )
        kit.attach(site, "capaboost", child)
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the corrections to the weights."""
    return kit.fold(model, "capaboost")
