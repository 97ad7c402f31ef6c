"""Pfeiffer adapter: the placement that AdapterFusion's search found (pfeiffer2021adapterfusion;
adapters_lib#src/adapters/configuration/adapter_config.py:SeqBnConfig).

    y <- LN(h + x + A(LN(h + x))) where a norm follows the residual,    y <- y + A(y) elsewhere

with A(z) = W_up relu(W_down z + b_down) + b_up.

One adapter a layer, behind the feed-forward block h with its residual x. Where a norm follows the residual (BERT),
the adapter reads what that norm gives out, adds to what it takes in, and the norm is applied again; its numbers are
frozen. Elsewhere the adapter stands behind the layer. Trained, and kept at inference: W_down (bottleneck, d_model),
W_up (d_model, bottleneck) and their biases.

`sequential_adapter` with targets ("mlp.down",) has as many numbers in the same layers, but reads the block's output
alone. The names of both are used for both.
"""

from typing import Any

from torch import Tensor, nn

from . import _kit as kit
from ._blocks import Bottleneck, norm_behind, on_layer_output


class PfeifferAdapter(Bottleneck):
    """The adapter of one layer."""

    def behind(self, y: Tensor) -> Tensor:
        return y + self.delta(y)                                    # (batch, n, d_model)

    def around(self, norm: nn.Module, args: tuple[Tensor, ...], z: Tensor) -> Any:
        return norm.forward(args[0] + self.delta(z))                # (batch, n, d_model); past this hook


def apply(model: nn.Module, *, bottleneck: int) -> nn.Module:
    """Freeze the model and put an adapter into every layer."""
    kit.freeze(model)
    for layer in kit.blocks(model, "layer"):
        child = PfeifferAdapter(layer.dims["d_model"], bottleneck=bottleneck)
        hooks = kit.attach(layer.module, "pfeiffer_adapter", child)
        norm = norm_behind(model, layer.sites["mlp.down"])
        hooks.append(
            norm.register_forward_hook(child.around) if norm else on_layer_output(layer.module, child.behind)
        )
    return model
