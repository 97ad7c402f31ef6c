"""Adapter+: adapters strike back (steitz2024adapterplus; code_adapter_plus#adapter_plus/vit_adapter.py:Adapter).

    y <- y + s * drop_path(W_up gelu(W_down y + b_down) + b_up)

with y the output of a layer, behind the residual sum, and s one factor for each channel. In training, `drop_path` sets
the adapter's whole output to zero for a random part of the images, and divides the others by the part that is kept.

Trained, and kept at inference: W_down (bottleneck, d_model), W_up (d_model, bottleneck), their biases and s (d_model,).
The matrices start small and not at zero, so the model starts near to where it was.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear

from . import _kit as kit
from ._image import require_images


class Adapter(kit.Child):
    """The adapter behind one layer."""

    def __init__(self, d_model: int, *, bottleneck: int, drop_path: float):
        super().__init__()
        self.W_down = nn.Parameter(torch.empty(bottleneck, d_model))
        self.b_down = nn.Parameter(torch.zeros(bottleneck))
        self.W_up = nn.Parameter(torch.empty(d_model, bottleneck))
        self.b_up = nn.Parameter(torch.zeros(d_model))
        self.s = nn.Parameter(torch.ones(d_model))
        self.drop_path = drop_path
        for matrix in (self.W_down, self.W_up):
            nn.init.trunc_normal_(matrix, std=0.01, a=-0.02, b=0.02)

    def add(self, y: Tensor) -> Tensor:
        z = gelu(linear(y, self.W_down, self.b_down))               # (batch, n, bottleneck)
        return y + self.dropped(linear(z, self.W_up, self.b_up)) * self.s               # (batch, n, d_model)

    def dropped(self, z: Tensor) -> Tensor:
        """Drop whole images in training."""
        if not self.training or not self.drop_path:
            return z
        keep = 1 - self.drop_path
        return z * z.new_empty(len(z), 1, 1).bernoulli_(keep).div_(keep)


def apply(
    model: nn.Module, *, bottleneck: int = 8, drop_path: float = 0.1, name: str = "adapter_plus"
) -> nn.Module:
    """Freeze the model and put an adapter behind every layer. Raises UsageError for a model of text."""
    require_images(model)
    kit.freeze(model)
    for layer in kit.blocks(model, "layer"):
        adapter = Adapter(layer.dims["d_model"], bottleneck=bottleneck, drop_path=drop_path)
        kit.attach(layer.module, name, adapter).append(kit.on_layer_output(layer.module, adapter.add))
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Run the method alone on recorded inputs; for the golden vectors."""
    output: Tensor = kit.blocks(model, "layer")[0].module(inputs["x"])
    return output
