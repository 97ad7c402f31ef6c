"""FlyLoRA: a frozen sparse projection that also chooses the ranks (zou2025flylora; code_flylora).

    h = W_0 x + (alpha / r) B (m * A x),    m is 1 for the k largest |A x + d|, else 0

Trained: B (d_out, r) beside every targeted weight. A (r, d_in) is drawn once and frozen: a share k / r of each row is
normal with deviation 1 / r, the rest is zero. d (r) is zero at first. A training loop calls `balance(model)` after each
step: d goes up by u for ranks that were chosen less often than the mean, and down for those chosen more often. The
choice depends on the input, so nothing can be merged.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from . import _kit as kit


class FlyLoRA(kit.Child):
    """The correction beside one weight of shape (d_out, d_in)."""

    A: Tensor
    d: Tensor
    chosen: Tensor

    def __init__(self, d_in: int, d_out: int, *, r: int, k: int, alpha: float, dropout: float):
        super().__init__()
        self.register_buffer("A", sparse(r, d_in, max(1, int(d_in * (k / r)))))
        self.B = nn.Parameter(torch.zeros(d_out, r))
        self.register_buffer("d", torch.zeros(r))
        self.register_buffer("chosen", torch.zeros(r), persistent=False)        # counts since the last `balance`
        self.k, self.scale = k, alpha / r
        self.dropout = nn.Dropout(dropout)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        low: Tensor = self.dropout(x) @ self.A.T                    # (..., d_in) -> (..., r)
        mask = self.mask(low)
        if self.training:
            self.chosen.add_(mask.flatten(0, -2).sum(0))
        return y + self.scale * ((low * mask) @ self.B.T)           # (..., r) -> (..., d_out)

    @torch.no_grad()
    def mask(self, low: Tensor) -> Tensor:
        """Return which ranks act, for outputs (..., r) of A."""
        return torch.zeros_like(low).scatter_(-1, (low + self.d).abs().topk(self.k, dim=-1).indices, 1.0)


def sparse(r: int, d_in: int, entries: int) -> Tensor:
    """Return a random matrix (r, d_in) with so many nonzero entries in each row."""
    places = torch.rand(r, d_in).argsort(1)[:, :entries]
    return torch.zeros(r, d_in).scatter_(1, places, torch.randn(r, entries) / r)


@torch.no_grad()
def balance(model: nn.Module, *, u: float = 1e-3) -> nn.Module:
    """Move the bias of every rank by u towards an equal use of all, and start to count again. For after each step."""
    for _, child in kit.at_sites(model, "flylora", FlyLoRA):
        child.d.add_(u * (child.chosen.mean() - child.chosen).sign())
        child.chosen.zero_()
    return model


def apply(
    model: nn.Module, *, r: int = 32, k: int = 8, alpha: float = 64.0, dropout: float = 0.0,
    targets: tuple[str, ...] = ("attn.*", "xattn.*", "mlp.*"),
) -> nn.Module:
    """Freeze the model and put a correction of which few ranks act beside every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        kit.attach(site, "flylora", FlyLoRA(site.d_in, site.d_out, r=r, k=k, alpha=alpha, dropout=dropout))
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the adapted module, and balance a copy once; for the golden vectors."""
    [(site, _)] = kit.at_sites(model, "flylora", FlyLoRA)
    output: Tensor = site.module(inputs["x"])
    moved = balance(copy.deepcopy(model), u=float(inputs["u"]))
    [(_, child)] = kit.at_sites(moved, "flylora", FlyLoRA)
    return {"output": output, "balanced": child.d}
