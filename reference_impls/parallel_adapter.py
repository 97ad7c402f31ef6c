"""Scaled parallel adapter: towards a unified view of parameter-efficient transfer learning (he2022unified#section-3.3).

    h = F(x) + s (W_up relu(W_down x + b_down) + b_up)

A bottleneck runs beside every feed-forward block F, on its input x (after the norm, where that comes first).
Trained: W_down (bottleneck, d_model), W_up (d_model, bottleneck) and their biases; W_up starts at zero, so the
model starts as it was. At inference all of it remains: the ReLU lets nothing be folded into the weights.

The paper's counts leave the biases out, its code has them, and builds a second, unused adapter in every RoBERTa
layer. The adapters library's `par_bn` is half as wide as the model and scales by 4.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from . import _kit as kit


class ParallelAdapter(kit.Child):
    """The adapter beside one feed-forward block, from its first linear map to its last."""

    def __init__(self, d_model: int, *, bottleneck: int, scale: float):
        super().__init__()
        self.W_down = nn.Parameter(torch.empty(bottleneck, d_model))
        self.b_down = nn.Parameter(torch.zeros(bottleneck))
        self.W_up = nn.Parameter(torch.zeros(d_model, bottleneck))
        self.b_up = nn.Parameter(torch.zeros(d_model))
        nn.init.kaiming_uniform_(self.W_down, a=math.sqrt(5))
        self.scale = scale
        self.x: Tensor | None = None

    def before(self, x: Tensor) -> Tensor:
        self.x = x
        return x

    def add(self, _: Tensor, h: Tensor) -> Tensor:
        assert self.x is not None
        z = torch.relu(linear(self.x, self.W_down, self.b_down))    # (..., d_model) -> (..., bottleneck)
        self.x = None                                               # keeps neither memory nor graph
        return h + self.scale * linear(z, self.W_up, self.b_up)     # (..., bottleneck) -> (..., d_model)


def apply(
    model: nn.Module, *, bottleneck: int = 512, scale: float = 4.0, name: str = "parallel_adapter"
) -> nn.Module:
    """Freeze the model and put an adapter beside every feed-forward block."""
    kit.freeze(model)
    for block in kit.blocks(model, "mlp"):
        adapter = ParallelAdapter(block.dims["d_model"], bottleneck=bottleneck, scale=scale)
        hooks = kit.attach(block.sites["mlp.up"], name, adapter)
        hooks.append(kit.on_output(block.sites["mlp.down"], adapter.add))
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Run the method alone on recorded inputs; for the golden vectors."""
    output: Tensor = kit.blocks(model, "layer")[0].module(inputs["x"])
    return output
