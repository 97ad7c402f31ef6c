"""TinyLoRA: learning to reason in 13 parameters (morris2026tinylora).

    h = W_0 x + B (v_1 P_1 + ... + v_u P_u) A x,    B A the best approximation of rank r to W_0, split evenly

Trained: v (u), one for each group of targeted weights; there are as many groups as weights for weight_tying = 0 and
one for weight_tying = 1. Frozen: A (r, d_in) and B (d_out, r) from the singular value decomposition of W_0, and random
P (u, r, r), all of each weight. The pretrained weights and a seed give them back. At inference the product is added to
W_0. peft groups modules in the model's order, where this groups them by role first, and saves A, B and P.
"""

import math

import torch
from torch import Tensor, nn

from . import _kit as kit


class Shared(kit.Child):
    """The trained numbers, one vector for each group."""

    def __init__(self, groups: int, u: int):
        super().__init__()
        self.v = nn.ParameterList(nn.Parameter(torch.zeros(u)) for _ in range(groups))


class TinyLoRA(kit.Child):
    """The correction beside one weight of shape (d_out, d_in)."""

    A: Tensor
    B: Tensor
    P: Tensor
    shared: Shared      # not a submodule

    def __init__(self, weight: Tensor, shared: Shared, group: int, *, r: int, u: int):
        super().__init__()
        kit.share(self, shared=shared)
        self.group, r = group, min(r, *weight.shape)
        left, values, right = torch.linalg.svd(weight.detach(), full_matrices=False)
        root = values[:r].sqrt()
        self.register_buffer("A", root[:, None] * right[:r])
        self.register_buffer("B", left[:, :r] * root)
        self.register_buffer("P", torch.randn(u, r, r) / r**0.5)

    def wiring(self) -> Tensor:
        return torch.einsum("u,uij->ij", self.shared.v[self.group], self.P)     # (r, r)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        return y + x @ self.A.T @ self.wiring().T @ self.B.T        # (..., d_in) -> (..., d_out)

    def delta(self) -> Tensor:
        return self.B @ self.wiring() @ self.A                      # (d_out, d_in)


def apply(
    model: nn.Module, *, r: int = 2, u: int = 64, weight_tying: float = 0.0,
    targets: tuple[str, ...] = ("attn.q", "attn.v", "xattn.q", "xattn.v"),
) -> nn.Module:
    """Freeze the model, and put its own singular directions, wired anew, beside every targeted weight."""
    kit.freeze(model)
    sites = kit.sites(model, targets)
    groups = max(1, math.floor(len(sites) * (1 - weight_tying) + 0.5))
    shared = Shared(groups, u)
    kit.attach(model, "tinylora", shared)
    for i, site in enumerate(sites):
        group = min(i // (len(sites) // groups), groups - 1)
        kit.attach(site, "tinylora", TinyLoRA(site.weight, shared, group, r=r, u=u))
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the corrections to the weights."""
    return kit.fold(model, "tinylora")
