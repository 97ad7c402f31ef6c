"""PSOFT: orthogonal fine-tuning in the principal subspace (wu2026psoft).

    h = W_0 x + B (diag(b) R diag(a) - I) A x,    W_0 = U S V^T,    A = V_r^T,    B = U_r S_r,    R = Cayley(Q)

Trained beside every targeted weight: what stands above the diagonal of the skew-symmetric Q (r, r), and the vectors a
and b (r). A (r, d_in) and B (d_out, r) are computed from W_0 by a singular value decomposition, and need not be
stored. At inference nothing is left. As A has orthonormal rows, R turns the principal part of W_0 and keeps lengths
and angles in it; a and b relax that. By default R is a series, I + 2 Q + ... + 2 Q^n + Q^(n + 1), as in the authors'
code. peft divides B by a scale and multiplies by it again.
"""

import torch
from torch import Tensor, nn

from . import _kit as kit
from ._rotated import cayley, skew


class PSOFT(kit.Child):
    """The rotation inside one weight of shape (d_out, d_in)."""

    A: Tensor
    B: Tensor

    def __init__(self, weight: Tensor, *, r: int, mag_a: bool, mag_b: bool, terms: int | None):
        super().__init__()
        u, s, v = torch.linalg.svd(weight, full_matrices=False)
        self.register_buffer("A", v[:r].clone(), persistent=False)          # (r, d_in)
        self.register_buffer("B", u[:, :r] * s[:r], persistent=False)       # (d_out, r)
        self.Q = nn.Parameter(torch.zeros(r * (r - 1) // 2))
        self.a = nn.Parameter(torch.ones(r)) if mag_a else None
        self.b = nn.Parameter(torch.ones(r)) if mag_b else None
        self.terms = terms

    def rotation(self) -> Tensor:
        rotated = cayley(skew(self.Q, len(self.A)), self.terms)      # (r, r)
        rotated = rotated if self.a is None else rotated * self.a
        return rotated if self.b is None else self.b[:, None] * rotated

    def change(self) -> Tensor:
        return self.rotation() - torch.eye(len(self.A)).to(self.A)  # (r, r)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        return y + x @ self.A.T @ self.change().T @ self.B.T        # (..., d_in) -> (..., r) -> (..., d_out)

    def delta(self) -> Tensor:
        return self.B @ self.change() @ self.A                      # (d_out, d_in)


def apply(
    model: nn.Module, *, r: int = 46, mag_a: bool = True, mag_b: bool = True,
    use_cayley_neumann: bool = True, num_cayley_neumann_terms: int = 5,
    targets: tuple[str, ...] = ("attn.*", "xattn.*", "mlp.*"),
) -> nn.Module:
    """Freeze the model and put a small rotation into the principal subspace of every targeted weight."""
    kit.freeze(model)
    terms = num_cayley_neumann_terms + 2 if use_cayley_neumann else None    # with the first and the last power
    for site in kit.sites(model, targets):
        kit.attach(site, "psoft", PSOFT(site.weight.detach(), r=r, mag_a=mag_a, mag_b=mag_b, terms=terms))
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add what the rotations change to the weights."""
    return kit.fold(model, "psoft")
