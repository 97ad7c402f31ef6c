"""Convpass: convolutional bypasses (jie2022convpass; code_petl_vit#convpass/vtab/convpass.py:Convpass).

    X <- X + F(n) + s (W_up dropout(phi(K * phi(W_down n + b_down) + c)) + b_up),    phi(z) = z sigmoid(1.702 z)

with F an attention or a feed-forward block, and n the output of the norm before it. K is a convolution of 3 by 3 over
the grid of patches. The class token is convolved as an image with one pixel.

Trained, and kept at inference: for each block W_down (bottleneck, d_model), K (bottleneck, bottleneck, 3, 3), W_up
(d_model, bottleneck) and their biases. W_up starts at zero, so the model starts unchanged.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear

from . import _kit as kit
from ._image import grid, require_one_width


class Bypass(kit.Child):
    """The bypass beside one block of a layer. `block` ends the names of its tensors."""

    def __init__(
        self, block: str, d: int, *, bottleneck: int, scale: float, dropout: float, xavier: bool, grid: tuple[int, int]
    ):
        super().__init__()
        down, kernel = torch.empty(bottleneck, d), torch.empty(bottleneck, bottleneck, 3, 3)
        (nn.init.xavier_uniform_ if xavier else nn.init.dirac_)(kernel)
        nn.init.xavier_uniform_(down)
        self.block, self.scale, self.grid = block, scale, grid
        for name, value in {
            "W_down": down, "b_down": torch.zeros(bottleneck), "K": kernel, "c": torch.zeros(bottleneck),
            "W_up": torch.zeros(d, bottleneck), "b_up": torch.zeros(d),
        }.items():  # fmt: skip
            self.register_parameter(f"{name}_{block}", nn.Parameter(value))
        self.dropout = nn.Dropout(dropout)
        self.x: Tensor | None = None

    def own(self, name: str) -> Tensor:
        return self.get_parameter(f"{name}_{self.block}")

    def before(self, x: Tensor) -> Tensor:
        self.x = x
        return x

    def add(self, _: Tensor, y: Tensor) -> Tensor:
        assert self.x is not None
        z = _activated(linear(self.x, self.own("W_down"), self.own("b_down")))      # (batch, n, bottleneck)
        self.x = None                                               # keeps neither memory nor graph
        z = torch.cat([self.convolved(z[:, :1], (1, 1)), self.convolved(z[:, 1:], self.grid)], dim=1)
        z = self.dropout(_activated(z))
        return y + self.scale * linear(z, self.own("W_up"), self.own("b_up"))       # (batch, n, d)

    def convolved(self, z: Tensor, grid: tuple[int, int]) -> Tensor:
        image = z.unflatten(1, grid).permute(0, 3, 1, 2)            # (batch, bottleneck, height, width)
        return conv2d(image, self.own("K"), self.own("c"), padding=1).flatten(2).transpose(1, 2)


def _activated(z: Tensor) -> Tensor:
    return z * torch.sigmoid(1.702 * z)


def apply(
    model: nn.Module, *, bottleneck: int = 8, scale: float = 0.1, dropout: float = 0.1, xavier: bool = False,
    attention_only: bool = False, name: str = "convpass",
) -> nn.Module:  # fmt: skip
    """Freeze the model and put a bypass beside its blocks.

    Raises UsageError for a model of text, and for one whose layers differ in width.
    """
    require_one_width(model)
    kit.freeze(model)
    sizes: dict[str, Any] = {
        "bottleneck": bottleneck, "scale": scale, "dropout": dropout, "xavier": xavier, "grid": grid(model),
    }  # fmt: skip
    ends = {"attention": ("attn.q", "attn.o"), "mlp": ("mlp.up", "mlp.down")}
    for kind, (first, last) in ends.items():
        for block in kit.blocks(model, kind) if kind == "attention" or not attention_only else ():
            child = Bypass(block.name, block.dims["d_model"], **sizes)
            kit.attach(block.sites[first], name, child).append(kit.on_output(block.sites[last], child.add))
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Run the method alone on recorded inputs; for the golden vectors."""
    output: Tensor = kit.blocks(model, "layer")[0].module(inputs["x"])
    return output
