"""Spectral Adapter: fine-tuning in spectral space (zhang2024spectral; code_spectral_adapter).

    W_0 = U S V^T + the rest,    additive: h = (U + A_U) S (V + A_V)^T x + the rest of W_0 x
                                 rotation: h = U Q(R_U) S Q(R_V)^T V^T x + the rest,   Q(R) = (I - K) (I + K)^-1

with K = (R - R^T) / 2. Trained for every targeted weight: A_U (d_out, r) and A_V (d_in, r), or R_U and R_V (r, r), all
zero at the start. Frozen: U (d_out, r), S (r) and V (d_in, r), the leading part of the singular value decomposition,
which the pretrained weight gives back. At inference the change is added to the weight.
"""

import torch
from torch import Tensor, nn

from . import _kit as kit
from ._rotated import cayley


class Spectral(kit.Child):
    """The leading singular vectors of one weight of shape (d_out, d_in), and what changes them."""

    U: Tensor
    S: Tensor
    V: Tensor

    def __init__(self, weight: Tensor, *, r: int):
        super().__init__()
        if r > min(weight.shape):
            raise ValueError(f"a weight of {weight.shape[0]} x {weight.shape[1]} has fewer than {r} singular values")
        u, s, v = torch.linalg.svd(weight.detach(), full_matrices=False)
        signs = u.gather(0, u.abs().argmax(0, keepdim=True)).sign()         # (1, n), which are arbitrary
        self.register_buffer("U", (signs * u)[:, :r].clone())
        self.register_buffer("S", s[:r].clone())
        self.register_buffer("V", (signs.T * v)[:r].T.clone())


class Added(Spectral):
    """The additions to the singular vectors."""

    def __init__(self, weight: Tensor, *, r: int):
        super().__init__(weight, r=r)
        self.A_U = nn.Parameter(torch.zeros_like(self.U))
        self.A_V = nn.Parameter(torch.zeros_like(self.V))

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        new = x @ (self.V + self.A_V) * self.S @ (self.U + self.A_U).T
        return y + (new - x @ self.V * self.S @ self.U.T)           # (..., d_in) -> (..., d_out)

    def delta(self) -> Tensor:
        return (self.U + self.A_U) * self.S @ (self.V + self.A_V).T - self.U * self.S @ self.V.T


class Rotated(Spectral):
    """The rotations of the singular vectors."""

    def __init__(self, weight: Tensor, *, r: int):
        super().__init__(weight, r=r)
        self.R_U = nn.Parameter(torch.zeros(r, r))
        self.R_V = nn.Parameter(torch.zeros(r, r))

    def core(self) -> Tensor:
        """Return the change between V^T and U, (r, r)."""
        left, right = (cayley((matrix.T - matrix) * 0.5) for matrix in (self.R_U, self.R_V))
        return left * self.S @ right.T - torch.diag(self.S)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        return y + x @ self.V @ self.core().T @ self.U.T            # (..., d_in) -> (..., d_out)

    def delta(self) -> Tensor:
        return self.U @ self.core() @ self.V.T                      # (d_out, d_in)


def apply(
    model: nn.Module, *, r: int = 8, mode: str = "additive",
    targets: tuple[str, ...] = ("attn.q", "attn.k", "attn.v", "mlp.*"),
) -> nn.Module:
    """Freeze the model and tune the r leading singular vectors on both sides of every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        child = Added(site.weight, r=r) if mode == "additive" else Rotated(site.weight, r=r)
        kit.attach(site, "spectral_adapter", child)
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the changes to the weights."""
    return kit.fold(model, "spectral_adapter")
