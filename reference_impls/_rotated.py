"""Methods that transform the input of a frozen weight: h = W_0 T x, where T is a learned square matrix."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from . import _kit as kit

__all__ = ["Rotated", "along", "cayley", "merge", "skew"]


class Rotated(kit.Child):
    """The matrix T of one weight. Subclasses apply it to the rows of a tensor in `rotate`."""

    site: kit.Site

    def rotate(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        # The change is added to the output, because the other slices of a fused module read the original x.
        return y + (self.rotate(x) - x) @ self.site.weight.T        # (..., d_in) -> (..., d_out)

    def merged(self, weight: Tensor) -> Tensor:
        """Return W T for a weight W (d_out, d_in)."""
        return weight @ self.rotate(torch.eye(weight.shape[1]).to(weight)).T


def along(x: Tensor, normals: Tensor) -> Tensor:
    """Return the part of each block of x (..., blocks * size) that lies along its normal (blocks, size)."""
    unit = nn.functional.normalize(normals, dim=-1)
    parts: Tensor = x.unflatten(-1, unit.shape)
    return ((parts * unit).sum(-1, keepdim=True) * unit).flatten(-2)


def skew(entries: Tensor, size: int) -> Tensor:
    """Return skew-symmetric matrices (..., size, size) from the size (size - 1) / 2 entries above their diagonals."""
    rows, columns = torch.triu_indices(size, size, 1)
    upper = entries.new_zeros(*entries.shape[:-1], size, size)
    upper[..., rows, columns] = entries
    return upper - upper.mT


def cayley(q: Tensor, terms: int | None = None) -> Tensor:
    """Return the orthogonal matrix (I + Q)(I - Q)^-1 for skew-symmetric Q (..., n, n).

    With `terms`, the inverse is a truncated Neumann series. The result is then
    I + 2 Q + ... + 2 Q^(terms - 2) + Q^(terms - 1), which is nearly orthogonal if Q is small.
    """
    one = torch.eye(q.shape[-1]).to(q).expand_as(q)
    if terms is None:
        rotation: Tensor = torch.linalg.solve(one - q, one + q, left=False)
        return rotation
    power = inverse = one
    for _ in range(terms - 2):
        power = power @ q
        inverse = inverse + power
    return inverse + q @ inverse


@torch.no_grad()
def merge(model: nn.Module, name: str) -> nn.Module:
    """Replace every weight W by W T."""
    for site, child in kit.at_sites(model, name, Rotated):
        site.weight.copy_(child.merged(site.weight))
    kit.detach(model, name)
    return model
