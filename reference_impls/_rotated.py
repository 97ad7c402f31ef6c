"""Methods that turn what a frozen weight reads: h = W_0 T x with a learned square T, which differs between methods."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from . import _kit as kit

__all__ = ["Rotated", "cayley", "merge", "skew"]


class Rotated(kit.Child):
    """The map T before one weight. A method says in `rotate` what it does to the rows of its argument."""

    site: kit.Site

    def rotate(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        # Added to the output, since on a slice of a fused module the others must read x as it was.
        site = self.site
        return y + (self.rotate(x) - x) @ site.weight.T               # (..., d_in) -> (..., d_out)

    def merged(self, weight: Tensor) -> Tensor:
        """The weight (d_out, d_in) with T in it."""
        return weight @ self.rotate(torch.eye(weight.shape[1]).to(weight)).T


def skew(entries: Tensor, size: int) -> Tensor:
    """Skew-symmetric matrices (..., size, size) from what stands above their diagonals, (..., size (size - 1) / 2)."""
    rows, columns = torch.triu_indices(size, size, 1)
    upper = entries.new_zeros(*entries.shape[:-1], size, size)
    upper[..., rows, columns] = entries
    return upper - upper.mT


def cayley(q: Tensor, terms: int | None = None) -> Tensor:
    """(I + Q)(I - Q)^-1 of skew-symmetric Q (..., n, n): orthogonal. With `terms`, the inverse is a sum of powers.

    Then the result is I + 2 Q + ... + 2 Q^(terms - 2) + Q^(terms - 1), which is nearly orthogonal where Q is small.
    """
    one = torch.eye(q.shape[-1]).to(q).expand_as(q)
    if terms is None:
        turned: Tensor = torch.linalg.solve(one - q, one + q, left=False)
        return turned
    power = inverse = one
    for _ in range(terms - 2):
        power = power @ q
        inverse = inverse + power
    return inverse + q @ inverse


@torch.no_grad()
def merge(model: nn.Module, name: str) -> nn.Module:
    """Put every T into the weight behind it."""
    for site, child in kit.at_sites(model, name, Rotated):
        site.weight.copy_(child.merged(site.weight))
    kit.detach(model, name)
    return model
