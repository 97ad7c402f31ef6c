"""DTL: disentangled transfer learning (fu2024dtl; code_dtl#models/vision_transformer.py:VisionTransformer).

    r_i = r_{i-1} + B_i A_i x_i                       before every layer i, with r_{-1} = 0
    x_{i+1} <- x_{i+1} + K * (r_i sigmoid(beta r_i))  behind the layers from first_added on

with x_i the input of layer i. K filters every channel of the patches by itself; the class token passes unfiltered. The
filter keeps the size of the grid. If its side is even, it reaches one patch further right and down than left and up.

Trained, and kept at inference: A (rank, d_model) and B (d_model, rank) for each layer, and one K
(d_model, 1, kernel, kernel) for the model. B starts at zero, so the model starts unchanged. The layers before the first
sum compute without gradients: nothing that is trained comes before them.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear, pad

from . import _kit as kit
from ._image import final_norm, grid, require_one_width


class Side(kit.Child):
    """The filter that all layers share, and the sum of the side network during a pass."""

    K: nn.Parameter

    def __init__(self, d: int, *, kernel: int, grid: tuple[int, int]):
        super().__init__()
        if kernel:
            self.K = nn.Parameter(torch.empty(d, 1, kernel, kernel).uniform_(-1 / kernel, 1 / kernel))
        self.kernel, self.grid = kernel, grid
        self.r: Tensor | None = None

    def filtered(self, z: Tensor) -> Tensor:
        if not self.kernel:
            return z
        u = z[:, 1:].unflatten(1, self.grid).permute(0, 3, 1, 2)                # (batch, d, height, width)
        if self.kernel % 2 == 0:
            u = pad(u, (0, 1, 0, 1))                                            # one row and one column behind
        u = conv2d(u, self.K, padding=(self.kernel - 1) // 2, groups=len(self.K)).flatten(2).transpose(1, 2)
        return torch.cat([z[:, :1], u], dim=1)                                  # (batch, n, d)


class Link(kit.Child):
    """The low-rank link from one layer's input to the side network, and the way back behind the layer."""

    side: Side      # not a submodule

    def __init__(self, d: int, side: Side, *, rank: int, beta: float, first: bool, last: bool, added: bool):
        super().__init__()
        kit.share(self, side=side)
        bound = 1 / math.sqrt(d)
        self.A = nn.Parameter(torch.empty(rank, d).uniform_(-bound, bound))
        self.B = nn.Parameter(torch.zeros(d, rank))
        self.beta, self.first, self.last, self.added = beta, first, last, added

    def read(self, _: nn.Module, args: tuple[Tensor, ...]) -> None:
        r = linear(linear(args[0], self.A), self.B)                             # (batch, n, d)
        self.side.r = r if self.first or self.side.r is None else self.side.r + r

    def write(self, h: Tensor) -> Tensor:
        r = self.side.r
        assert r is not None
        if self.last:
            self.side.r = None                                                  # keeps neither memory nor graph
        return h + self.side.filtered(r * torch.sigmoid(self.beta * r)) if self.added else h


def apply(
    model: nn.Module, *, first_added: int, rank: int = 2, beta: float = 100.0, kernel: int = 3
) -> nn.Module:
    """Freeze the model and put the side network beside its layers. The first of them that gets the sum is first_added.

    Raises UsageError for a model of text, and for layers of different widths.
    """
    require_one_width(model)
    kit.freeze(model)
    layers = kit.blocks(model, "layer")
    d = kit.inventory(model).dims["d_model"]
    side = Side(d, kernel=kernel, grid=grid(model))
    kit.attach(model, "dtl", side)
    for i, layer in enumerate(layers):
        link = Link(d, side, rank=rank, beta=beta, first=i == 0, last=i == len(layers) - 1, added=i >= first_added)
        hooks = kit.attach(layer.module, "dtl", link)
        hooks.append(layer.module.register_forward_pre_hook(link.read))
        hooks.append(kit.on_layer_output(layer.module, link.write))
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Run the method alone on recorded inputs; for the golden vectors."""
    states: list[Tensor] = []
    norm = final_norm(model)
    handle = norm.register_forward_pre_hook(lambda _, args: states.append(args[0]))
    model(pixel_values=inputs["x"])
    handle.remove()
    pooled: Tensor = norm(states[0][:, 1:].mean(dim=1))                         # (batch, d), of the patches alone
    return pooled
