"""AdaptFormer: adapting vision transformers for scalable visual recognition (chen2022adaptformer; code_adaptformer).

    y <- y + s (W_up dropout(relu(W_down x + b_down)) + b_up)

with x the residual stream before the norm of the feed-forward block, and y the layer's output.

Trained, and kept at inference: W_down (bottleneck, d_model), W_up (d_model, bottleneck) and their biases. W_up starts
at zero, so the model starts unchanged. `parallel_adapter` is the same network on the input behind the norm.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from . import _kit as kit
from ._image import require_images


class AdaptMLP(kit.Child):
    """The adapter beside the norm and the feed-forward block of one layer."""

    def __init__(self, d_model: int, *, bottleneck: int, scale: float, dropout: float):
        super().__init__()
        self.W_down = nn.Parameter(torch.empty(bottleneck, d_model))
        self.b_down = nn.Parameter(torch.zeros(bottleneck))
        self.W_up = nn.Parameter(torch.zeros(d_model, bottleneck))
        self.b_up = nn.Parameter(torch.zeros(d_model))
        nn.init.kaiming_uniform_(self.W_down, a=math.sqrt(5))
        self.scale = scale
        self.dropout = nn.Dropout(dropout)
        self.x: Tensor | None = None

    def note(self, _: nn.Module, args: tuple[Tensor, ...]) -> None:
        self.x = args[0]

    def forget(self, _: Tensor | None = None) -> None:
        self.x = None                                               # keeps neither memory nor graph

    def add(self, y: Tensor) -> Tensor:
        assert self.x is not None
        z = self.dropout(torch.relu(linear(self.x, self.W_down, self.b_down)))     # (batch, n, bottleneck)
        if self.x.requires_grad:
            self.x.register_hook(self.forget)   # the second pass of a checkpoint notes x again, and does not come here
        self.forget()
        return y + self.scale * linear(z, self.W_up, self.b_up)     # (batch, n, d_model)


def apply(
    model: nn.Module, *, bottleneck: int = 64, scale: float = 0.1, dropout: float = 0.1, name: str = "adaptformer"
) -> nn.Module:
    """Freeze the model and put an adapter beside every feed-forward block. Raises UsageError for a model of text."""
    require_images(model)
    kit.freeze(model)
    before = {
        (weight.stack, weight.layer): model.get_submodule(weight.name.rpartition(".")[0])
        for weight in kit.weights(model) if weight.role == "norm.mlp"
    }
    for layer in kit.blocks(model, "layer"):
        adapter = AdaptMLP(layer.dims["d_model"], bottleneck=bottleneck, scale=scale, dropout=dropout)
        hooks = kit.attach(layer.module, name, adapter)
        hooks.append(before[layer.stack, layer.layer].register_forward_pre_hook(adapter.note))
        hooks.append(kit.on_layer_output(layer.module, adapter.add))
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Run the method alone on recorded inputs; for the golden vectors."""
    output: Tensor = kit.blocks(model, "layer")[0].module(inputs["x"])
    return output
