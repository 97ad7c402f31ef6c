"""AdaptFormer: adapting vision transformers for scalable visual recognition (chen2022adaptformer; code_adaptformer).

    y <- y + s (W_up dropout(relu(W_down x + b_down)) + b_up)

with x the residual stream before the norm of the feed-forward block, and y the layer's output.

Trained, and kept at inference: W_down (bottleneck, d_model), W_up (d_model, bottleneck) and their biases. W_up starts
at zero, so the model starts unchanged. `parallel_adapter` is the same network on the input behind the norm.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from . import _kit as kit
from ._image import require_images


class Beside(kit.Child):
    """A module beside the norm and the feed-forward block of one layer, whose input it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.x: Tensor | None = None

    def delta(self, x: Tensor) -> Tensor:
        """Return what is added to the layer's output, from the state before the norm."""
        raise NotImplementedError

    def note(self, _: nn.Module, args: tuple[Tensor, ...]) -> None:
        self.x = args[0]

    def forget(self, _: Tensor | None = None) -> None:
        self.x = None                                               # keeps neither memory nor graph

    def add(self, y: Tensor) -> Tensor:
        assert self.x is not None
        d = self.delta(self.x)
        if self.x.requires_grad:
            self.x.register_hook(self.forget)   # the second pass of a checkpoint notes x again, and does not come here
        self.forget()
        return y + d                                                # (batch, n, d_model)


class AdaptMLP(Beside):
    """The adapter of one layer."""

    def __init__(self, d_model: int, *, bottleneck: int, scale: float, dropout: float):
        super().__init__()
        self.W_down = nn.Parameter(torch.empty(bottleneck, d_model))
        self.b_down = nn.Parameter(torch.zeros(bottleneck))
        self.W_up = nn.Parameter(torch.zeros(d_model, bottleneck))
        self.b_up = nn.Parameter(torch.zeros(d_model))
        nn.init.kaiming_uniform_(self.W_down, a=math.sqrt(5))
        self.scale = scale
        self.dropout = nn.Dropout(dropout)

    def delta(self, x: Tensor) -> Tensor:
        z = self.dropout(torch.relu(linear(x, self.W_down, self.b_down)))          # (batch, n, bottleneck)
        return self.scale * linear(z, self.W_up, self.b_up)         # (batch, n, d_model)


def attach(model: nn.Module, name: str, make: Callable[[int], Beside]) -> nn.Module:
    """Freeze the model and attach `make(d_model)` beside every feed-forward block. Raises UsageError for text."""
    require_images(model)
    kit.freeze(model)
    before = {
        (weight.stack, weight.layer): model.get_submodule(weight.name.rpartition(".")[0])
        for weight in kit.weights(model) if weight.role == "norm.mlp"
    }
    for layer in kit.blocks(model, "layer"):
        child = make(layer.dims["d_model"])
        hooks = kit.attach(layer.module, name, child)
        hooks.append(before[layer.stack, layer.layer].register_forward_pre_hook(child.note))
        hooks.append(kit.on_layer_output(layer.module, child.add))
    return model


def apply(
    model: nn.Module, *, bottleneck: int = 64, scale: float = 0.1, dropout: float = 0.1, name: str = "adaptformer"
) -> nn.Module:
    """Freeze the model and put an adapter beside every feed-forward block. Raises UsageError for a model of text."""
    return attach(
        model, name, lambda d_model: AdaptMLP(d_model, bottleneck=bottleneck, scale=scale, dropout=dropout)
    )


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Run the method alone on recorded inputs; for the golden vectors."""
    output: Tensor = kit.blocks(model, "layer")[0].module(inputs["x"])
    return output
