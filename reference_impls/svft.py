"""SVFT: fine-tuning with singular vectors (lingam2024svft; code_svft).

    W_0 = U S V,   h = W_0 x + sigmoid(g) U M V x

Trained, for every targeted weight: the cells of a sparse M (n, n), n = min(d_in, d_out), and a gate g. Frozen:
U (d_out, n) and V (n, d_in), which the pretrained weight gives back, and the choice of the cells: 2 d + 1 diagonals, as
many cells drawn at random, or as many with the largest entries of U V^T (see the pitfalls). The largest entry of each
column of U is positive, so that every library finds the same vectors. At inference the change is added to the weight.
"""

import math

import torch
from torch import Tensor, nn

from . import _kit as kit


def cells(u: Tensor, v: Tensor, d: int, pattern: str) -> Tensor:
    """Return the trained cells of a square matrix as indices, row by row."""
    n = len(v)
    k = n * (2 * d + 1) - d * (d + 1)
    if pattern == "random":
        rows, columns = torch.randint(0, n, (k,)), torch.randint(0, n, (k,))
        return rows * n + columns
    if pattern == "top_k":
        likeness = u @ v.T if u.shape == v.shape else u if u.shape[0] == n else v
        return likeness.flatten().topk(k).indices
    diagonals = [torch.arange(max(-i, 0), n - max(i, 0)) * (n + 1) + i for i in range(-d, d + 1)]
    return torch.cat(diagonals).sort().values


class Coefficients(kit.Child):
    """The coefficients of the singular vectors of one weight of shape (d_out, d_in)."""

    U: Tensor
    V: Tensor

    def __init__(self, weight: Tensor, *, d: int, pattern: str):
        super().__init__()
        if d >= min(weight.shape):
            raise ValueError(f"{d} diagonals on each side do not fit a weight of {weight.shape[0]} x {weight.shape[1]}")
        u, _, v = torch.linalg.svd(weight.detach(), full_matrices=False)
        signs = u.gather(0, u.abs().argmax(0, keepdim=True)).sign()         # (1, n)
        self.register_buffer("U", signs * u)
        self.register_buffer("V", signs.T * v)
        self.kind = "drawn" if pattern == "random" else "chosen"
        places = cells(self.U, self.V, d, pattern)
        self.register_buffer(self.kind, places)
        self.M = nn.Parameter(math.sqrt(2 / len(places)) * torch.randn(len(places)))
        self.g = nn.Parameter(torch.zeros(1))

    def core(self) -> Tensor:
        n = len(self.V)
        values = self.M * torch.sigmoid(self.g)
        flat = values.new_zeros(n * n)
        return flat.index_put((self.get_buffer(self.kind),), values, accumulate=True).view(n, n)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        return y + x @ self.V.T @ self.core().T @ self.U.T          # (..., d_in) -> (..., d_out)

    def delta(self) -> Tensor:
        return self.U @ self.core() @ self.V                        # (d_out, d_in)


def apply(
    model: nn.Module, *, d: int = 0, pattern: str = "banded", targets: tuple[str, ...] = ("attn.*", "xattn.*", "mlp.*")
) -> nn.Module:
    """Freeze the model and put trained coefficients between the singular vectors of every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        kit.attach(site, "svft", Coefficients(site.weight, d=d, pattern=pattern))
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the changes to the weights."""
    return kit.fold(model, "svft")
