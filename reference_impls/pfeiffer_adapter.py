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

from typing import Any, cast

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from . import _kit as kit
from ._bottleneck import Bottleneck


def norm_behind(model: nn.Module, path: str) -> nn.LayerNorm | None:
    """The norm that follows the residual behind the linear layer at this path, if there is one."""
    parts = kit.inventory(model)
    operations = parts.backbone.family.operations
    if operations is None or not operations.post_norm(parts.backbone.config):
        return None
    found = {where: (m, layer) for m in parts.modules for layer, where in m.paths()}
    linear, layer = found[path]
    block, _, place = linear.role.partition(".")
    if place not in ("o", "down"):
        return None
    role = f"norm.{block}"
    [norm] = [where for where, (m, n) in found.items() if (m.role, m.stack, n) == (role, linear.stack, layer)]
    return cast(nn.LayerNorm, model.get_submodule(norm))


class Placed(kit.Child):
    """A module that corrects a layer's state, in the place of the Pfeiffer adapter."""

    def delta(self, h: Tensor) -> Tensor:
        raise NotImplementedError

    def behind(self, y: Tensor) -> Tensor:
        return y + self.delta(y)                                    # (batch, n, d_model)

    def around(self, norm: nn.Module, args: tuple[Tensor, ...], z: Tensor) -> Any:
        return norm.forward(args[0] + self.delta(z))                # (batch, n, d_model); past this hook

    def act(self, model: nn.Module, layer: nn.Module, down: str) -> RemovableHandle:
        """Act in a layer whose last linear layer is at the path `down`: around the norm, or behind the layer."""
        norm = norm_behind(model, down)
        return kit.on_layer_output(layer, self.behind) if norm is None else norm.register_forward_hook(self.around)


class PfeifferAdapter(Bottleneck, Placed):
    """The adapter of one layer."""


def apply(model: nn.Module, *, bottleneck: int) -> nn.Module:
    """Freeze the model and put an adapter into every layer."""
    kit.freeze(model)
    for layer in kit.blocks(model, "layer"):
        child = PfeifferAdapter(layer.dims["d_model"], bottleneck=bottleneck)
        hooks = kit.attach(layer.module, "pfeiffer_adapter", child)
        hooks.append(child.act(model, layer.module, layer.sites["mlp.down"].path))
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Run the method alone on recorded inputs; for the golden vectors."""
    batch = {key: value for key, value in inputs.items() if key != "probe"}
    states: Tensor = model(**batch).last_hidden_state
    return states
