"""DyLoRA: dynamic search-free low-rank adaptation (valipour2023dylora).

    h = W_0 x + (alpha / b) B[:, :b] A[:b] x,    b drawn anew for every forward pass in training mode, of 1 .. r

Trained: A (r, d_in) and B (d_out, r) beside every targeted weight, of which a step at rank b moves the first b rows
and columns or, with `frozen`, the last of those only. `use(model, b)` takes any rank for evaluation and merging; r
if not called. At inference the product at that rank is added to W_0. The authors' code counts ranks from zero.
Freezing cuts gradients: an optimiser with momentum or weight decay moves the frozen rows all the same.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from . import _kit as kit


class Rank(kit.Child):
    """The rank in use, one for the whole model."""

    def __init__(self, r: int):
        super().__init__()
        self.r = self.served = self.b = r

    def draw(self, model: nn.Module, args: Any) -> None:
        self.b = int(torch.randint(1, self.r + 1, ())) if model.training else self.served


class DyLoRA(kit.Child):
    """The correction beside one weight of shape (d_out, d_in)."""

    rank: Rank                  # not a submodule

    def __init__(self, d_in: int, d_out: int, rank: Rank, *, alpha: float, frozen: bool):
        super().__init__()
        kit.share(self, rank=rank)
        self.A = nn.Parameter(torch.empty(rank.r, d_in))
        self.B = nn.Parameter(torch.zeros(d_out, rank.r))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
        self.alpha, self.frozen = alpha, frozen

    def truncated(self) -> tuple[Tensor, Tensor]:
        """A and B cut to the rank in use, (b, d_in) and (d_out, b)."""
        b = self.rank.b
        if not self.frozen:
            return self.A[:b], self.B[:, :b]
        return (
            torch.cat([self.A[: b - 1].detach(), self.A[b - 1 : b]]),
            torch.cat([self.B[:, : b - 1].detach(), self.B[:, b - 1 : b]], dim=1),
        )

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        a, b = self.truncated()
        return y + (x @ a.T @ b.T) * (self.alpha / self.rank.b)     # (..., d_in) -> (..., b) -> (..., d_out)

    def delta(self) -> Tensor:
        a, b = self.truncated()
        return b @ a * (self.alpha / self.rank.b)                   # (d_out, d_in)


def apply(
    model: nn.Module, *, r: int = 8, alpha: float = 16.0, frozen: bool = True,
    targets: tuple[str, ...] = ("attn.q", "attn.v", "xattn.q", "xattn.v"),
) -> nn.Module:
    """Freeze the model and put a correction of changing rank beside every targeted weight."""
    kit.freeze(model)
    rank = Rank(r)
    handles = kit.attach(model, "dylora", rank)
    handles.append(model.register_forward_pre_hook(rank.draw))
    for site in kit.sites(model, targets):
        kit.attach(site, "dylora", DyLoRA(site.d_in, site.d_out, rank, alpha=alpha, frozen=frozen))
    return model


def use(model: nn.Module, b: int) -> nn.Module:
    """Use rank b outside training from now on."""
    rank = _rank(model)
    if not 1 <= b <= rank.r:
        raise ValueError(f"the rank must be 1 to {rank.r}, not {b}")
    rank.served = rank.b = b
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the corrections at the rank that `use` chose to the weights."""
    use(model, _rank(model).served)
    return kit.fold(model, "dylora")


def _rank(model: nn.Module) -> Rank:
    [rank] = [child for child in kit.attached(model, "dylora") if isinstance(child, Rank)]
    return rank


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the one adapted module at the recorded rank; for the golden vectors."""
    [(site, child)] = kit.at_sites(model, "dylora", DyLoRA)
    child.rank.b = int(inputs["rank"])
    return {"output": site.module(inputs["x"])}
