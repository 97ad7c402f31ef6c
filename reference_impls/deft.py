"""DEFT: decompositional efficient fine-tuning (kumar2025deft).

    h = (I - Q S^T) W_0 x + (alpha / r) Q R x + b,    relu: Q = P, S = relu(P);    qr: Q = S = orthonormalised P

Trained: P (d_out, r) and R (r, d_in) beside every targeted weight: P says which directions are taken from the weight,
R what is said in them instead. R starts as S^T W_0 (over the scale), so that nothing is lost at first, as in peft,
whose other option, a random R, it calls the original. At inference nothing is left. With R zero it is PaRa.
"""

import torch
from torch import Tensor, nn

from . import _kit as kit


class DEFT(nn.Module):
    """The projection and the injection behind one weight of shape (d_out, d_in)."""

    def __init__(self, weight: Tensor, *, r: int, alpha: float, decomposition: str, dropout: float):
        super().__init__()
        self.qr, self.scale = decomposition == "qr", alpha / r if alpha else 1.0
        self.P = nn.Parameter(0.02 * torch.randn(weight.shape[0], r).to(weight))
        self.R = nn.Parameter(self.factors()[1].detach().T @ weight / self.scale)
        self.dropout = nn.Dropout(dropout)

    def factors(self) -> tuple[Tensor, Tensor]:
        """Q and S (d_out, r)."""
        q = torch.linalg.qr(self.P).Q if self.qr else self.P
        return q, q if self.qr else q.relu()

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        q, s = self.factors()
        taken = x @ vars(self)["site"].weight.T @ s                 # (..., d_in) -> (..., r)
        given = self.scale * (self.dropout(x) @ self.R.T)           # (..., d_in) -> (..., r)
        changed: Tensor = y + (given - taken) @ q.T                 # (..., d_out)
        return changed

    def delta(self, weight: Tensor) -> Tensor:
        q, s = self.factors()
        return q @ (self.scale * self.R - s.T @ weight)             # (d_out, d_in)


def apply(
    model: nn.Module, *, r: int = 8, alpha: float = 0.0, decomposition: str = "relu", dropout: float = 0.0,
    targets: tuple[str, ...] = ("attn.q", "attn.v", "xattn.q", "xattn.v"),
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
