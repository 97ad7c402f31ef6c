"""GOFT: Givens orthogonal fine-tuning, and quasi-Givens (ma2024goft; code_goft).

    h = W_0 diag(s) R_1^T R_2^T ... R_L^T x,   R_l = Givens rotations of components that are 2^(l - 1) apart

Stage l rotates the components whose number is a multiple of 2^(l - 1), in pairs of neighbours among these; one that is
left over waits for the next stage. L = ceil(log2(d_in)) stages have d_in - 1 pairs. Trained for every targeted weight:
theta (d_in - 1), whose angles are pi tanh(theta), and the scale s (d_in); or, if not `strict`, all entries of the
pairs' matrices G (d_in - 1, 2, 2). At inference the weight is multiplied by the product.
"""

import math

import torch
from torch import Tensor, nn

from . import _kit as kit
from ._rotated import Rotated
from ._rotated import merge as merge_rotated


class Givens(Rotated):
    """The rotations before one weight."""

    places: Tensor
    partners: Tensor

    def __init__(self, d_in: int, *, strict: bool, scaling: bool):
        super().__init__()
        if d_in < 2:
            raise ValueError(f"an input of width {d_in} has no pair to rotate")
        places, partners = tree(d_in)
        self.register_buffer("places", places, persistent=False)            # (2 (d_in - 1))
        self.register_buffer("partners", partners, persistent=False)        # (L, d_in)
        if strict:
            self.theta = nn.Parameter(torch.zeros(d_in - 1))
        else:
            self.G = nn.Parameter(torch.eye(2).repeat(d_in - 1, 1, 1))
        self.s = nn.Parameter(torch.ones(d_in)) if strict and scaling else None
        self.strict = strict

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return the factor of each component and that of its partner in each stage, (L, d_in) each."""
        if self.strict:
            angles = torch.tanh(self.theta) * math.pi
            cos, sin = angles.cos(), angles.sin()
            own, other = torch.cat([cos, cos]), torch.cat([sin, -sin])
        else:
            own, other = (g.diagonal(dim1=1, dim2=2).T.flatten() for g in (self.G, self.G.flip(1)))
        flat = own.new_ones(self.partners.numel())
        return (
            flat.index_put((self.places,), own).view_as(self.partners),
            torch.zeros_like(flat).index_put((self.places,), other).view_as(self.partners),
        )

    def rotate(self, x: Tensor) -> Tensor:
        own, other = self.factors()
        for stage in reversed(range(len(own))):
            x = x * own[stage] + x[..., self.partners[stage]] * other[stage]        # (..., d_in)
        return x if self.s is None else x * self.s


def tree(d_in: int) -> tuple[Tensor, Tensor]:
    """Return the places of all pairs in a table (stages, d_in), first ones before second ones, and the partners."""
    first, second, partners = list[Tensor](), list[Tensor](), list[Tensor]()
    step, left = 1, d_in
    while left > 1:
        a = torch.arange(left // 2) * 2 * step
        partner = torch.arange(d_in)
        partner[a], partner[a + step] = a + step, a
        first.append(a + len(partners) * d_in)
        second.append(a + step + len(partners) * d_in)
        partners.append(partner)
        step, left = 2 * step, (left + 1) // 2
    return torch.cat(first + second), torch.stack(partners)


def apply(
    model: nn.Module, *, strict: bool = True, scaling: bool = True,
    targets: tuple[str, ...] = ("attn.q", "attn.v", "xattn.q", "xattn.v"),
) -> nn.Module:
    """Freeze the model and put a tree of rotations before every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        kit.attach(site, "goft", Givens(site.d_in, strict=strict, scaling=scaling))
    return model


def merge(model: nn.Module) -> nn.Module:
    """Multiply the weights by the rotations."""
    return merge_rotated(model, "goft")
