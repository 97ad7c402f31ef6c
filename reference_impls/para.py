"""PaRa: parameter rank reduction (chen2025para).

    h = (I - Q Q^T) W_0 x + b,    Q = the orthonormal factor of P = Q U (a QR decomposition)

Trained: P (d_out, r) beside every targeted weight. Of all that the weight can say, the r directions that P spans are
taken away, so that its rank falls by r. At inference nothing is left. It cannot start as the identity: whatever P is,
something is missing. peft has it as an option of DEFT; its default there does not orthogonalise P.
"""

import torch
from torch import Tensor, nn

from . import _kit as kit


class PaRa(kit.Child):
    """The projection behind one weight of shape (d_out, d_in)."""

    site: kit.Site

    def __init__(self, d_out: int, *, r: int):
        super().__init__()
        self.P = nn.Parameter(0.02 * torch.randn(d_out, r))

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        said = x @ self.site.weight.T                      # (..., d_in) -> (..., d_out), without the bias
        return y + self.delta(said.mT).mT

    def delta(self, weight: Tensor) -> Tensor:
        """What the columns of a matrix (..., d_out, n) lose."""
        q = torch.linalg.qr(self.P).Q                               # (d_out, r)
        lost: Tensor = -q @ (q.T @ weight)
        return lost


def apply(
    model: nn.Module, *, r: int = 8, targets: tuple[str, ...] = ("attn.q", "attn.v", "xattn.q", "xattn.v")
) -> nn.Module:
    """Freeze the model and take r directions from the outputs of every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        kit.attach(site, "para", PaRa(site.d_out, r=r))
    return model


@torch.no_grad()
def merge(model: nn.Module) -> nn.Module:
    """Project the weights."""
    for site, child in kit.at_sites(model, "para", PaRa):
        site.weight.add_(child.delta(site.weight))
    kit.detach(model, "para")
    return model
