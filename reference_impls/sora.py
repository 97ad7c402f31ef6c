"""SoRA: sparse low-rank adaptation (ding2023sora; code_sora).

    h = W_0 x + (alpha / r) B diag(g) A x

Trained: LoRA's A (r, d_in) and B (d_out, r) beside every targeted weight, and a gate g (r) between them. A training
loop adds a multiple of `penalty(model)` to its loss, and calls `shrink(model)` after each step of the optimizer, which
pulls every gate towards zero and leaves small ones there. `finish` removes the ranks whose gate is zero. At inference
the product is added to W_0.
"""

import copy
import math

import torch
from torch import Tensor, nn

from . import _kit as kit


class SoRA(kit.Child):
    """The correction beside one weight of shape (d_out, d_in)."""

    def __init__(self, d_in: int, d_out: int, *, r: int, alpha: float, dropout: float):
        super().__init__()
        self.A = nn.Parameter(torch.empty(r, d_in))
        self.g = nn.Parameter(torch.randn(r))
        self.B = nn.Parameter(torch.zeros(d_out, r))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
        self.scale = alpha / r
        self.dropout = nn.Dropout(dropout)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        low: Tensor = (self.dropout(x) @ self.A.T) * self.g         # (..., d_in) -> (..., r)
        return y + self.scale * (low @ self.B.T)                    # (..., r) -> (..., d_out)

    def delta(self) -> Tensor:
        return self.scale * (self.B * self.g) @ self.A              # (d_out, d_in)


def corrections(model: nn.Module) -> list[SoRA]:
    """Return the corrections of the model, in the order of its modules."""
    return [child for _, child in kit.at_sites(model, "sora", SoRA)]


def penalty(model: nn.Module) -> Tensor:
    """Return the mean absolute gate of the model, of which the authors' script adds ten times to the loss."""
    return torch.cat([child.g for child in corrections(model)]).abs().mean()


@torch.no_grad()
def shrink(model: nn.Module, *, xi: float = 3e-4) -> nn.Module:
    """Pull every gate towards zero by xi, and set it to zero if it is not farther away. For after each step."""
    for child in corrections(model):
        child.g.copy_(nn.functional.softshrink(child.g, xi))
    return model


def apply(
    model: nn.Module, *, r: int = 8, alpha: float = 16.0, dropout: float = 0.0,
    targets: tuple[str, ...] = ("attn.*", "xattn.*", "mlp.*"),
) -> nn.Module:
    """Freeze the model and put a gated correction beside every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        kit.attach(site, "sora", SoRA(site.d_in, site.d_out, r=r, alpha=alpha, dropout=dropout))
    return model


@torch.no_grad()
def finish(model: nn.Module) -> nn.Module:
    """Remove the ranks whose gate is zero."""
    for child in corrections(model):
        open_ = child.g != 0
        child.A.data, child.g.data, child.B.data = child.A[open_], child.g[open_], child.B[:, open_]
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the corrections to the weights."""
    return kit.fold(model, "sora")


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the adapted module, its penalty, and one shrinking of its gates; for the golden vectors."""
    [(site, _)] = kit.at_sites(model, "sora", SoRA)
    shrunk = shrink(copy.deepcopy(model), xi=float(inputs["xi"]))
    [gates] = [child.g for child in corrections(shrunk)]
    return {"output": site.module(inputs["x"]), "penalty": penalty(model), "shrunk": gates.detach()}
