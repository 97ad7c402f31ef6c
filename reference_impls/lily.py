"""Lily: low-rank interconnected adaptation across layers (zhong2025lily; code_lily).

    h = W_0 x + scaling (A x) (p_1 B_1 + ... + p_n B_n),    p = mean over all tokens of softmax(router (A x))

Trained: for every targeted role the factors A (r, d_in), one for each stride_A consecutive layers, and a pool B (num_B,
r, d_out) for all layers; for every targeted weight a router (num_B, r). B starts at zero. At inference all of it
remains, since the mixture depends on the input. The whole batch has one mixture. peft shares by the suffix that its
user gave, not by role.
"""

import math

import torch
from torch import Tensor, nn

from . import _kit as kit


class Shared(kit.Child):
    """The factors of one role."""

    def __init__(self, d_in: int, d_out: int, n: int, *, r: int, num_B: int):
        super().__init__()
        self.A = nn.ParameterList(nn.Parameter(torch.empty(r, d_in)) for _ in range(n))
        self.B = nn.Parameter(torch.zeros(num_B, r, d_out))
        for a in self.A:
            nn.init.kaiming_uniform_(a, a=math.sqrt(5))


class Lily(kit.Child):
    """The correction beside one weight of shape (d_out, d_in)."""

    shared: Shared      # not a submodule

    def __init__(self, shared: Shared, group: int, scaling: float):
        super().__init__()
        kit.share(self, shared=shared)
        num, r, _ = shared.B.shape
        self.router = nn.Parameter(nn.init.kaiming_uniform_(torch.empty(num, r), a=math.sqrt(5)))
        self.group, self.scaling = group, scaling

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        low = x @ self.shared.A[self.group].T                               # (..., d_in) -> (..., r)
        share = (low @ self.router.T).softmax(-1).flatten(0, -2).mean(0)    # (..., num_B) -> (num_B,)
        mixed = torch.einsum("e,erd->rd", share, self.shared.B)             # (r, d_out)
        change: Tensor = low @ mixed                                        # (..., d_out)
        return y + self.scaling * change


def apply(
    model: nn.Module, *, r: int = 16, stride_A: int = 8, num_B: int = 4, scaling: float = 1.0,
    targets: tuple[str, ...] = ("attn.q", "attn.k", "attn.v", "xattn.q", "xattn.k", "xattn.v"),
) -> nn.Module:
    """Freeze the model, and put corrections with shared factors beside every targeted weight."""
    kit.freeze(model)
    for role, sites in kit.by_role(model, targets).items():
        shared = Shared(sites[0].d_in, sites[0].d_out, math.ceil(len(sites) / stride_A), r=r, num_B=num_B)
        kit.attach(model, f"lily.{role.replace('.', '_')}", shared)
        for i, site in enumerate(sites):
            kit.attach(site, "lily", Lily(shared, i // stride_A, scaling))
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Run the method alone on recorded inputs; for the golden vectors."""
    return torch.cat([site.module(inputs["x"]) for site, _ in kit.at_sites(model, "lily", Lily)], dim=-1)
