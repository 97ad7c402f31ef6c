"""KronA^B and KronA^B_res: the Kronecker adapter beside a feed-forward block (edalati2022krona).

    h = F(x) + s (A kron B) x + s_res x

Trained: A (a1, a2) and B (d_model / a1, d_model / a2) beside every feed-forward block F, on its input x (after the
norm, where that comes first); with `residual` one number s_res more. At inference all of it remains, since F has a
nonlinearity. No code of the authors is known; B and s_res start at zero here.
"""

import math

import torch
from torch import Tensor, nn

from . import _kit as kit
from .krona import kronecker


class KronAB(kit.Child):
    """The map beside one feed-forward block, from its first linear map to its last."""

    s_res: nn.Parameter | None

    def __init__(self, d_model: int, *, a1: int, a2: int, scale: float, residual: bool):
        super().__init__()
        self.A = nn.Parameter(torch.empty(a1, a2))
        self.B = nn.Parameter(torch.zeros(d_model // a1, d_model // a2))
        self.register_parameter("s_res", nn.Parameter(torch.zeros(1)) if residual else None)
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
        self.scale = scale
        self.x: Tensor | None = None

    def before(self, x: Tensor) -> Tensor:
        self.x = x
        return x

    def add(self, _: Tensor, h: Tensor) -> Tensor:
        x, self.x = self.x, None                                    # keeps neither memory nor graph
        assert x is not None
        h = h + self.scale * kronecker(self.A, self.B, x)           # (..., d_model)
        return h if self.s_res is None else h + self.s_res * x


def apply(
    model: nn.Module, *, a1: int = 32, a2: int = 32, scale: float = 1.0, residual: bool = True
) -> nn.Module:
    """Freeze the model and put a Kronecker product beside every feed-forward block."""
    kit.freeze(model)
    for block in kit.blocks(model, "mlp"):
        child = KronAB(block.dims["d_model"], a1=a1, a2=a2, scale=scale, residual=residual)
        hooks = kit.attach(block.sites["mlp.up"], "krona_b", child)
        hooks.append(kit.on_output(block.sites["mlp.down"], child.add))
    return model
