"""DoRA: weight-decomposed low-rank adaptation (liu2024dora).

    h = diag(m / ||W_0 + s B A||) (W_0 + s B A) x,    s = alpha / r, the norms those of the rows (one per output)

Trained: A (r, d_in), B (d_out, r) for the direction and m (d_out) for the length of every row, which starts as the
row's own. The norms in the denominator follow the factors but pass no gradient on (section 4.3). At inference nothing
is left: the scaled sum takes the place of W_0. As in the authors' code dropout acts on what passes through the change
of the map, so that the module's own product is computed once more; peft spares that without dropout.
"""

import torch
from torch import Tensor, nn

from . import _kit as kit
from .lora import LoRA


class DoRA(LoRA):
    """A low-rank correction of one weight's direction, and the length of each of its rows."""

    site: kit.Site

    def __init__(self, weight: Tensor, *, r: int, alpha: float, dropout: float):
        d_out, d_in = weight.shape
        super().__init__(d_in, d_out, r=r, alpha=alpha, dropout=dropout)
        self.m = nn.Parameter(weight.norm(dim=1))

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        x = self.dropout(x)
        gain = self.m / self.direction().norm(dim=1).detach()       # (d_out,)
        low = self.scale * (x @ self.A.T @ self.B.T)                # (..., d_in) -> (..., d_out)
        changed: Tensor = y + (gain - 1) * (x @ self.site.weight.T) + gain * low
        return changed

    def direction(self) -> Tensor:
        return self.site.weight + self.delta()                      # (d_out, d_in)


def apply(
    model: nn.Module, *, r: int = 32, alpha: float = 64.0, dropout: float = 0.05,
    targets: tuple[str, ...] = ("attn.q", "attn.k", "attn.v", "xattn.q", "xattn.k", "xattn.v", "mlp.up", "mlp.down"),
) -> nn.Module:
    """Freeze the model and give every targeted weight a correction of its direction and lengths of its own."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        kit.attach(site, "dora", DoRA(site.weight.detach(), r=r, alpha=alpha, dropout=dropout))
    return model


@torch.no_grad()
def merge(model: nn.Module) -> nn.Module:
    """Put the turned rows, at their learned lengths, in the place of the weights."""
    for site, child in kit.at_sites(model, "dora", DoRA):
        direction = child.direction()
        site.weight.copy_(direction * (child.m / direction.norm(dim=1))[:, None])
    kit.detach(model, "dora")
    return model
