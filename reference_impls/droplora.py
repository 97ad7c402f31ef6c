"""DropLoRA: LoRA with dropout between its factors (zhang2025droplora; code_droplora).

    h = W_0 x + (alpha / r) B (m * A x),    m_k = 0 with probability p, else 1 / (1 - p); m = 1 in evaluation

Trained: A (r, d_in) and B (d_out, r) beside every targeted weight, as in LoRA. Every position has a mask m (r) of its
own. At inference nothing is left: the product is added to W_0, with all ranks. The authors' code has another mask
that is trained; it is left out.
"""

from __future__ import annotations

from torch import Tensor, nn

from . import _kit as kit
from .lora import LoRA


class DropLoRA(LoRA):
    """A correction whose ranks are dropped at random in training."""

    def __init__(self, d_in: int, d_out: int, *, r: int, alpha: float, dropout: float, inner_dropout: float):
        super().__init__(d_in, d_out, r=r, alpha=alpha, dropout=dropout)
        self.inner: nn.Module = nn.Dropout(inner_dropout)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        low: Tensor = self.inner(self.dropout(x) @ self.A.T)        # (..., d_in) -> (..., r)
        return y + self.scale * (low @ self.B.T)                    # (..., r) -> (..., d_out)


def apply(
    model: nn.Module, *, r: int = 32, alpha: float = 64.0, dropout: float = 0.05, inner_dropout: float = 0.5,
    targets: tuple[str, ...] = ("attn.q", "attn.k", "attn.v", "xattn.q", "xattn.k", "xattn.v", "mlp.up", "mlp.down"),
) -> nn.Module:
    """Freeze the model and put a correction with a random mask beside every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        child = DropLoRA(site.d_in, site.d_out, r=r, alpha=alpha, dropout=dropout, inner_dropout=inner_dropout)
        kit.attach(site, "droplora", child)
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the corrections to the weights."""
    return kit.fold(model, "droplora")


class Recorded(nn.Module):
    """A mask that was drawn before, in place of dropout."""

    def __init__(self, mask: Tensor):
        super().__init__()
        self.mask = mask

    def forward(self, low: Tensor) -> Tensor:
        return low * self.mask if self.training else low


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Run the adapted module with the recorded mask; for the golden vectors."""
    [(site, child)] = kit.at_sites(model, "droplora", DropLoRA)
    child.inner = Recorded(inputs["mask"]).train(child.training)
    output: Tensor = site.module(inputs["x"])
    return output
