"""Mona: multi-cognitive visual adapters (yin2023mona; code_mona, swin_transformer_mona.py:Mona).

    n = gamma * LN(x) + gammax * x,    u = W_down n + b_down
    v = u + ((K3 * u + c3) + (K5 * u + c5) + (K7 * u + c7)) / 3
    x <- x + W_up dropout(gelu(v + P v + p)) + b_up

with x the state behind the attention, and again behind the feed-forward block, each with its residual sum. The narrow
states u are laid out as the image. K3, K5 and K7 filter each channel by itself, with 3 by 3, 5 by 5 and 7 by 7 weights.

Trained, and kept at inference: for both places the norm's gain and shift, gamma and gammax (d_model,), W_down
(bottleneck, d_model), K3, K5 and K7 (bottleneck, 1, k, k), P (bottleneck, bottleneck, 1, 1), W_up (d_model, bottleneck)
and the biases. W_up does not start at zero, so the model does not start where it was.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, gelu, layer_norm, linear

from . import _kit as kit
from ._image import grid, require_images


class Mona(kit.Child):
    """The two adapters of one layer. `attn` and `mlp` end the names of their tensors."""

    def __init__(self, d: int, *, bottleneck: int, dropout: float, grid: tuple[int, int] | None):
        super().__init__()
        for block in ("attn", "mlp"):
            made = {"gain": torch.ones(d), "shift": torch.zeros(d), "gamma": torch.full((d,), 1e-6),
                    "gammax": torch.ones(d), "b_down": torch.zeros(bottleneck), "b_up": torch.zeros(d)}  # fmt: skip
            for name, rows, columns in (("W_down", bottleneck, d), ("W_up", d, bottleneck)):
                made[name] = nn.init.trunc_normal_(torch.empty(rows, columns), std=0.02)
            for size in (3, 5, 7):
                made[f"K{size}"] = torch.empty(bottleneck, 1, size, size).uniform_(-1 / size, 1 / size)
                made[f"c{size}"] = torch.empty(bottleneck).uniform_(-1 / size, 1 / size)
            bound = bottleneck**-0.5
            made["P"] = torch.empty(bottleneck, bottleneck, 1, 1).uniform_(-bound, bound)
            made["p"] = torch.empty(bottleneck).uniform_(-bound, bound)
            for name, value in made.items():
                self.register_parameter(f"{name}_{block}", nn.Parameter(value))
        self.dropout = nn.Dropout(dropout)
        self.grid = grid                            # None if the layer is told the size of its input
        self.change: Tensor | None = None

    def measure(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Take the height and width of the layer's input from the layer's arguments."""
        self.grid = kwargs.get("input_dimensions", args[1] if len(args) > 1 else None)

    def before(self, _: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Add the first change to the input of the norm. The residual sum around the feed-forward block lacks it."""
        self.change = self.delta(args[0], "attn")
        return (args[0] + self.change).to(args[0].dtype), *args[1:]

    def behind(self, h: Tensor) -> Tensor:
        if self.change is None:
            return h
        h = h + self.change
        if self.change.requires_grad:
            self.change.register_hook(self.forget)  # the second pass of a checkpoint makes it again, and adds nothing
        self.forget()
        return h + self.delta(h, "mlp")

    def forget(self, _: Tensor | None = None) -> None:
        self.change = None                                          # keeps neither memory nor graph

    def delta(self, x: Tensor, block: str) -> Tensor:
        def own(name: str) -> Tensor:
            return self.get_parameter(f"{name}_{block}")

        def filtered(z: Tensor, size: tuple[int, int]) -> Tensor:
            u = z.unflatten(1, size).permute(0, 3, 1, 2)            # (batch, bottleneck, height, width)
            seen = [conv2d(u, own(f"K{k}"), own(f"c{k}"), padding=k // 2, groups=len(own("p"))) for k in (3, 5, 7)]
            v = (seen[0] + seen[1] + seen[2]) / 3 + u
            mixed: Tensor = v + conv2d(v, own("P"), own("p"))
            return mixed.flatten(2).transpose(1, 2)                 # (batch, n, bottleneck)

        n = layer_norm(x, x.shape[-1:], own("gain"), own("shift")) * own("gamma") + x * own("gammax")
        z = linear(n, own("W_down"), own("b_down"))                 # (batch, n, bottleneck)
        assert self.grid is not None
        lone = z.shape[1] - self.grid[0] * self.grid[1]             # 1 with a class token, which is an image of its own
        parts = [filtered(z[:, :lone], (lone, 1))] if lone else []
        z = torch.cat([*parts, filtered(z[:, lone:], self.grid)], dim=1) if lone else filtered(z, self.grid)
        return linear(self.dropout(gelu(z)), own("W_up"), own("b_up"))      # (batch, n, d)


def apply(model: nn.Module, *, bottleneck: int = 64, dropout: float = 0.1, name: str = "mona") -> nn.Module:
    """Freeze the model and put an adapter behind both blocks of every layer. Raises UsageError for a model of text."""
    require_images(model)
    kit.freeze(model)
    norms = {
        (weight.stack, weight.layer): model.get_submodule(weight.name.rpartition(".")[0])
        for weight in kit.weights(model) if weight.role == "norm.mlp"
    }
    layers = kit.blocks(model, "layer")
    staged = len({layer.stack for layer in layers}) > 1
    for layer in layers:
        size = None if staged else grid(model)
        child = Mona(layer.dims["d_model"], bottleneck=bottleneck, dropout=dropout, grid=size)
        hooks = kit.attach(layer.module, name, child)
        if staged:
            hooks.append(layer.module.register_forward_pre_hook(child.measure, with_kwargs=True))
        hooks.append(norms[layer.stack, layer.layer].register_forward_pre_hook(child.before))
        hooks.append(kit.on_layer_output(layer.module, child.behind))
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Run the first layer of a Swin transformer on recorded states of 4 by 4 patches; for the golden vectors."""
    output: Tensor = kit.blocks(model, "layer")[0].module(inputs["x"], (4, 4))[0]
    return output
