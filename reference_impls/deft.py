"""DEFT: decompositional efficient fine-tuning (kumar2025deft).

    h = (I - Q S^T) W_0 x + (alpha / r) Q R x + b,    relu: Q = P, S = relu(P);    qr: Q = S = orthonormalised P

Trained: P (d_out, r) and R (r, d_in) beside every targeted weight: P says which directions are taken from the weight,
R what is said in them instead. Both start as small random numbers, so that the start is near the pretrained model with
relu, and lacks r directions of every weight with qr. Dropout acts on what the whole changed weight reads. At inference
nothing is left. With R zero it is PaRa. The scale alpha / r is peft's; the authors have none.
"""

import torch
from torch import Tensor, nn

from . import _kit as kit


class DEFT(kit.Child):
    """The projection and the injection behind one weight of shape (d_out, d_in)."""

    site: kit.Site

    def __init__(self, weight: Tensor, *, r: int, alpha: float, decomposition: str, dropout: float):
        super().__init__()
        self.qr, self.scale = decomposition == "qr", alpha / r if alpha else 1.0
        self.P = nn.Parameter(0.02 * torch.randn(weight.shape[0], r).to(weight))
        self.R = nn.Parameter(0.02 * torch.randn(r, weight.shape[1]).to(weight))
        self.dropout = nn.Dropout(dropout)

    def factors(self) -> tuple[Tensor, Tensor]:
        """Q and S (d_out, r)."""
        q = torch.linalg.qr(self.P).Q if self.qr else self.P
        return q, q if self.qr else q.relu()

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        q, s = self.factors()
        site = self.site
        x = self.dropout(x)
        plain = x @ site.weight.T                                   # (..., d_in) -> (..., d_out)
        given = self.scale * (x @ self.R.T)                         # (..., d_in) -> (..., r)
        if self.training and self.dropout.p:
            y = plain if site.bias is None else plain + site.bias
        changed: Tensor = y + (given - plain @ s) @ q.T             # (..., d_out)
        return changed

    def delta(self, weight: Tensor) -> Tensor:
        q, s = self.factors()
        return q @ (self.scale * self.R - s.T @ weight)             # (d_out, d_in)


def apply(
    model: nn.Module, *, r: int = 8, alpha: float = 0.0, decomposition: str = "relu", dropout: float = 0.0,
    targets: tuple[str, ...] = ("attn.*", "xattn.*"),
) -> nn.Module:
    """Freeze the model and replace r directions of the outputs of every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        child = DEFT(site.weight.detach(), r=r, alpha=alpha, decomposition=decomposition, dropout=dropout)
        kit.attach(site, "deft", child)
    return model


@torch.no_grad()
def merge(model: nn.Module) -> nn.Module:
    """Put projection and injection into the weights."""
    for site, child in kit.at_sites(model, "deft", DEFT):
        site.weight.add_(child.delta(site.weight))
    kit.detach(model, "deft")
    return model
