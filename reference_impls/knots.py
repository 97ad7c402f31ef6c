"""KnOTS: merge LoRAs in the basis that their changes share (stoica2025knots; code_knots). Here with TIES-Merging.

    [Delta W_1, ..., Delta W_n] = U [C_1, ..., C_n],    W = W_0 + U C,    C = TIES(C_1, ..., C_n)

Given: LoRAs of the same model, rank and targets, Delta W_i = (alpha / r) B_i A_i. `combine` computes U, the left
singular vectors of the changes side by side, (d_out, tasks * r). In this basis the changes are the coefficients C_i =
U^T Delta W_i, (tasks * r, d_in). TIES-Merging merges these into C. Nothing is trained, and U C is added to W_0.

No matrix of the size of the changes is made. With [B_1, ..., B_n] = Q [R_1, ..., R_n] and A_i^T = Q_i S_i, the changes
side by side are Q [R_1 S_1^T, ..., R_n S_n^T] times orthonormal rows. So U is Q times the left singular vectors of the
small matrix in brackets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from . import _kit as kit
from . import _merging, _recipe, ties_merging


class Knot(kit.Child):
    """The basis and the merged coefficients beside one weight of shape (d_out, d_in)."""

    site: kit.Site

    def __init__(self, d_in: int, d_out: int, *, rank: int, scale: float):
        super().__init__()
        self.U = nn.Parameter(torch.zeros(d_out, rank), requires_grad=False)
        self.C = nn.Parameter(torch.zeros(rank, d_in), requires_grad=False)
        self.scale = scale

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        return y + x @ self.C.T @ self.U.T                              # (..., d_in) -> (..., rank) -> (..., d_out)

    def delta(self) -> Tensor:
        return self.U @ self.C                                          # (d_out, d_in)

    def span(self, inputs: Sequence[_merging.Input]) -> None:
        """Compute the basis of the changes."""
        first, second = _merging.pair(self, "knots")
        for part, given in zip(self.U.chunk(len(inputs), 1), inputs, strict=True):
            part.copy_(given[second])
        q, small = torch.linalg.qr(self.U)                              # (d_out, rank), (rank, rank)
        for part, given in zip(small.chunk(len(inputs), 1), inputs, strict=True):
            part.copy_(part @ torch.linalg.qr(given[first].T, mode="r").R.T)
        torch.matmul(q, torch.linalg.svd(small).U, out=self.U)


class Coefficients(Mapping[str, Tensor]):
    """The coefficients of one input in the basis of each site; each is computed when it is read."""

    def __init__(self, knots: Mapping[str, Knot], given: _merging.Input):
        self.knots, self.given = knots, given

    def __getitem__(self, path: str) -> Tensor:
        knot = self.knots[path]
        first, second = _merging.pair(knot, "knots")
        return knot.scale * (knot.U.T @ self.given[second]) @ self.given[first]

    def __iter__(self) -> Iterator[str]:
        return iter(self.knots)

    def __len__(self) -> int:
        return len(self.knots)


def apply(
    model: nn.Module, *, tasks: int = 8, r: int = 16, alpha: float = 16.0, keep: float = 0.2, scale: float = 0.6,
    targets: tuple[str, ...] = ("attn.*",),
) -> nn.Module:
    """Freeze the model and put an empty basis beside every targeted weight."""
    _recipe.keep(model, "knots", tasks=tasks, keep=keep, scale=scale)
    for site in kit.sites(model, targets):
        kit.attach(site, "knots", Knot(site.d_in, site.d_out, rank=tasks * r, scale=alpha / r))
    return model


@torch.no_grad()
def combine(model: nn.Module, inputs: Sequence[_merging.Input]) -> nn.Module:
    """Merge trained LoRAs, which have the same rank and targets."""
    given = _merging.settings(model, inputs, "knots")
    knots = {f"{site.path}.{knot.attached}": knot for site, knot in kit.at_sites(model, "knots", Knot)}
    for knot in knots.values():
        knot.span(inputs)
    places = {path: knot.C for path, knot in knots.items()}
    ties_merging.merge_into(places, [Coefficients(knots, one) for one in inputs], **given)
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the merged changes to the weights."""
    return kit.fold(model, "knots")


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Merge recorded adapters of two matrices; for the golden vectors."""
    found = {site.role.removeprefix("mlp."): (site, knot) for site, knot in kit.at_sites(model, "knots", Knot)}
    parts = [_merging.adapters(knot, "knots", inputs, f"{role} ") for role, (_, knot) in found.items()]
    combine(model, [{**one, **other} for one, other in zip(*parts, strict=True)])
    weights = {role: site.weight + knot.delta() for role, (site, knot) in found.items()}
    return {"output": weights["down"], "up": weights["up"]}
