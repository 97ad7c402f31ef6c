"""GoRA: gradient-driven adaptive low-rank adaptation (he2025gora; code_gora).

    h = W_0 x + (alpha / sqrt(r_i)) B A x,    B_0 = -(eta sqrt(d_in) / alpha) G A_0^T (A_0 A_0^T)^-1
    r_i: the budget's share of weight i, in proportion to mean |W * G|; r if all weights are equally important

Trained: A (r_i, d_in), which starts random, and B (d_out, r_i). `calibrate` finds the mean gradient G of each weight on
a few batches and from it the ranks and B. No weight receives more than max_rank; what is left of that room is zero,
stays so, and goes when training has ended (`finish`). At inference the product is added to W_0. In the authors' code
B_0 has the other sign.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from peftonomy import UsageError

from . import _kit as kit
from . import _starts, lora


class GoRA(lora.LoRA):
    """The correction beside one weight, with room for max_rank. Rows of A and columns of B that are unused are zero."""

    def __init__(
        self, d_in: int, d_out: int, *, r: int, min_rank: int, max_rank: int, alpha: float, step: float
    ):
        super().__init__(d_in, d_out, r=max_rank, alpha=alpha, dropout=0.0)
        self.r, self.min_rank, self.max_rank, self.alpha, self.step = r, min_rank, max_rank, alpha, step
        self.use(r)

    @property
    def rank(self) -> int:
        """The number of rows that are used."""
        return int(self.A.detach().any(1).sum())

    @property
    def gain(self) -> float:
        """The factor on the product."""
        return self.alpha / math.sqrt(max(self.rank, 1))

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        return y + self.gain * (x @ self.A.T @ self.B.T)            # (..., d_in) -> (..., d_out)

    def delta(self) -> Tensor:
        return self.B @ self.A * self.gain                          # (d_out, d_in)

    @torch.no_grad()
    def use(self, rank: int) -> None:
        """Draw the first `rank` rows of A, and set all others to zero."""
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
        self.A[rank:] = 0.0

    @torch.no_grad()
    def compress(self, gradient: Tensor) -> None:
        """Start B from the gradient of the weight (d_out, d_in)."""
        a = self.A[: self.rank]
        inverse = torch.linalg.pinv(a @ a.T + 1e-8 * torch.eye(len(a)).to(a))
        self.B.zero_()
        self.B[:, : len(a)] = -self.step * a.shape[1] ** 0.5 / self.alpha * (gradient @ (a.T @ inverse))


def apply(
    model: nn.Module, *, r: int = 8, min_rank: int = 4, max_rank: int = 32, alpha: float = 16.0, step: float = 0.05,
    targets: tuple[str, ...] = ("attn.*", "xattn.*"),
) -> nn.Module:
    """Freeze the model and put a correction beside every targeted weight; `calibrate` then gives it rank and start."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        sizes = {"r": r, "min_rank": min_rank, "max_rank": max_rank}
        kit.attach(site, "gora", GoRA(site.d_in, site.d_out, **sizes, alpha=alpha, step=step))
    return model


def calibrate(model: nn.Module, losses: Iterable[Tensor]) -> nn.Module:
    """Distribute the ranks and start all factors, by the mean gradients of the losses."""
    pairs = list(kit.at_sites(model, "gora", GoRA))
    count = 0

    def counted() -> Iterator[Tensor]:
        nonlocal count
        for loss in losses:
            count += 1
            yield loss

    gradients = [total / max(count, 1) for total in _starts.gradients([site for site, _ in pairs], counted())]
    for (_, child), rank, gradient in zip(pairs, ranks(pairs, gradients), gradients, strict=True):
        child.use(rank)
        child.compress(gradient)
    return model


def ranks(pairs: list[tuple[kit.Site, GoRA]], gradients: list[Tensor]) -> list[int]:
    """Return the rank of each weight."""
    importance = torch.stack([(s.weight * g).abs().mean() for (s, _), g in zip(pairs, gradients, strict=True)]).tolist()
    if not sum(importance):
        raise UsageError("gora: all gradients are zero; expected losses that depend on the targeted weights")
    budget = sum(child.r * (site.d_in + site.d_out) for site, child in pairs)
    found = []
    for value, (site, child) in zip(importance, pairs, strict=True):
        share = round(budget * value / sum(importance)) // (site.d_in + site.d_out)
        found.append(min(max(share, child.min_rank), child.max_rank))
    return found


@torch.no_grad()
def finish(model: nn.Module) -> nn.Module:
    """Drop the room that is not used."""
    for _, child in kit.at_sites(model, "gora", GoRA):
        child.A.data, child.B.data = child.A[: child.rank].clone(), child.B[:, : child.rank].clone()
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the corrections to the weights."""
    return kit.fold(model, "gora")


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the first module, find the ranks on recorded gradients, and start B with a recorded A; for the vectors."""
    pairs = list(kit.at_sites(model, "gora", GoRA))
    output: Tensor = next(s.module for s, _ in pairs)(inputs["x"])
    found = ranks(pairs, [inputs[f"G{i}"] for i in range(len(pairs))])
    started = copy.deepcopy(pairs[0][1])
    with torch.no_grad():
        started.A.zero_()
        started.A[: len(inputs["A"])] = inputs["A"]
    started.compress(inputs["G0"])
    used = started.B[:, : started.rank]
    return {
        "output": output, "ranks": torch.tensor(found), "gain": torch.tensor(started.gain),
        "size_B": used.abs(), "start_B": used,
    }  # fmt: skip
