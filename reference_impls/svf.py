"""SVF: singular value fine-tuning of Transformer-Squared (sun2025transformer2; code_svf).

    W_0 = U S V,   h = c U diag(S sigmoid(z)) V x,   c = sum(S) / sum(S sigmoid(z))

Trained: z (n), n = min(d_in, d_out), for every targeted weight; it starts close to `init_val`. Frozen: U (d_out, n),
S (n) and V (n, d_in), which the pretrained weight gives back. At inference the product takes the place of the weight.
"""

import torch
from torch import Tensor, nn

from . import _kit as kit


class Scaled(kit.Child):
    """The factors of the singular values of one weight of shape (d_out, d_in)."""

    U: Tensor
    S: Tensor
    V: Tensor

    def __init__(self, weight: Tensor, *, init_val: float):
        super().__init__()
        u, s, v = torch.linalg.svd(weight.detach(), full_matrices=False)
        self.register_buffer("U", u)
        self.register_buffer("S", s)
        self.register_buffer("V", v)
        self.z = nn.Parameter(torch.empty(len(s)).normal_(init_val, 0.01))

    def change(self) -> Tensor:
        """Return the change of the singular values."""
        scaled = torch.sigmoid(self.z) * self.S
        return scaled * (self.S.sum() / scaled.sum()) - self.S

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        return y + x @ self.V.T * self.change() @ self.U.T          # (..., d_in) -> (..., d_out)

    def delta(self) -> Tensor:
        return self.U * self.change() @ self.V                      # (d_out, d_in)


def apply(model: nn.Module, *, init_val: float = 0.1, targets: tuple[str, ...] = ("mlp.*",)) -> nn.Module:
    """Freeze the model and train factors for the singular values of every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        kit.attach(site, "svf", Scaled(site.weight, init_val=init_val))
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the changes to the weights."""
    return kit.fold(model, "svf")
