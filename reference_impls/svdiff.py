"""SVDiff: spectral shifts (han2023svdiff; code_svdiff).

    W_0 = U diag(S) V,   h = U diag(max(S + shift, 0)) V x

Trained: shift (n), n = min(d_in, d_out), zero at the start, for every targeted weight. Frozen: U (d_out, n), S (n) and
V (n, d_in), which the pretrained weight gives back. At inference the product takes the place of the weight.
"""

import torch
from torch import Tensor, nn

from . import _kit as kit


class Shifted(kit.Child):
    """The shifts of the singular values of one weight of shape (d_out, d_in)."""

    U: Tensor
    S: Tensor
    V: Tensor

    def __init__(self, weight: Tensor):
        super().__init__()
        u, s, v = torch.linalg.svd(weight.detach(), full_matrices=False)
        self.register_buffer("U", u)
        self.register_buffer("S", s)
        self.register_buffer("V", v)
        self.shift = nn.Parameter(torch.zeros(len(s)))

    def change(self) -> Tensor:
        """Return the change of the singular values, which stay at zero or above."""
        return torch.relu(self.S + self.shift) - self.S

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        return y + x @ self.V.T * self.change() @ self.U.T          # (..., d_in) -> (..., d_out)

    def delta(self) -> Tensor:
        return self.U * self.change() @ self.V                      # (d_out, d_in)


def apply(model: nn.Module, *, targets: tuple[str, ...] = ("attn.*", "xattn.*", "mlp.*")) -> nn.Module:
    """Freeze the model and train shifts of the singular values of every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        kit.attach(site, "svdiff", Shifted(site.weight))
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the changes to the weights."""
    return kit.fold(model, "svdiff")
