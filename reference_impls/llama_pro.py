"""LLaMA Pro: progressive LLaMA with block expansion (wu2024llamapro; code_llama_pro#scripts/block_expansion.py).

    h <- L_l(h);    h <- L'_l(h)  behind every `every`-th layer,    L' a copy of L with W_O = W_down = 0

A copy L' is a whole layer, with parameters of its own. Its output projections, of the attention and of the feed-forward
block, start at zero, biases included. The residual sums then pass the state on, so the model starts unchanged.
Trained, and kept at inference: B (every other parameter of a copy) and Z (its output projections). The layers of the
backbone stay frozen.

The authors insert the copies into the list of layers. Here a copy runs behind its layer with the layer's other
arguments (mask, positions, cache), so the backbone's names and its config do not change.
"""

import copy
from typing import Any, cast

from torch import Tensor, nn
from transformers import Cache

from peftonomy import UsageError

from . import _kit as kit
from ._doubles import Double

OUTPUTS = ("attn.o", "mlp.down", "moe.down", "moe.shared.down", "delta.o")
"""The roles of output projections."""
CHECKPOINTING = ("gradient_checkpointing", "_gradient_checkpointing_func")
"""What `gradient_checkpointing_enable` sets at a layer."""


class Copy(kit.Child):
    """A copy of one layer that runs behind it. Its parameters live beside those that they copy."""

    layer: nn.Module            # not a submodule

    def __init__(self, layer: nn.Module, number: int, place: int):
        super().__init__()
        self.number, self.place = number, place         # of the layer, and of the copy's keys and values in a cache
        kit.share(self, layer=layer)
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                cast(Any, module).layer_idx = place

    def follow(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        for name, mine in self.layer.named_modules():
            its = layer.get_submodule(name)
            mine.training = its.training
            vars(mine).update({key: vars(its)[key] for key in CHECKPOINTING if key in vars(its)})
        for cache in (value for value in (*args, *kwargs.values()) if isinstance(value, Cache)):
            self.extend(cache)
        state: Tensor = output[0] if isinstance(output, tuple) else output      # (batch, n, d_model)
        return self.layer(state, *args[1:], **kwargs)

    def extend(self, cache: Cache) -> None:
        """Give a cache of the backbone's layers a place for the copy. Copies run in the order of their places."""
        if len(cache.layers) == self.place:
            empty: Any = copy.copy(cache.layers[self.number])
            empty.is_initialized = False
            if hasattr(empty, "cumulative_length"):
                empty.cumulative_length = 0
            cache.layers.append(empty)


def apply(model: nn.Module, *, every: int = 4, name: str = "llama_pro") -> nn.Module:
    """Freeze the model and put a copy behind every n-th layer. Raises UsageError for a model with an encoder."""
    if kit.inventory(model).dims["n_encoder_layers"]:
        raise UsageError("a decoder alone was expected; this model has an encoder")
    kit.freeze(model)
    layers = kit.blocks(model, "layer")
    chosen = [layer for layer in layers if (layer.layer + 1) % every == 0]
    frames = [_copied(layer.module) for layer in chosen]        # before anything is attached to the layers
    weights = {weight.name: weight for weight in kit.weights(model)}
    for i, (layer, frame) in enumerate(zip(chosen, frames, strict=True)):
        for inner, parameter in frame.named_parameters():
            role = weights[f"{layer.path}.{inner}"].role
            if role in OUTPUTS:
                parameter.data.zero_()
            path, _, suffix = inner.rpartition(".")
            double = Double("Z" if role in OUTPUTS else "B", parameter)
            kit.attach(layer.module.get_submodule(path), f"{name}.{suffix}", double)
        child = Copy(frame, layer.layer, len(layers) + i)
        hooks = kit.attach(layer.module, name, child)
        hooks.append(layer.module.register_forward_hook(child.follow, with_kwargs=True))
    return model


def _copied(layer: nn.Module) -> nn.Module:
    """Return a copy of a layer with trained parameters."""
    memo: dict[int, Tensor] = {id(p): nn.Parameter(p.detach().clone()) for p in layer.parameters()}
    memo |= {id(b): b.clone() for b in layer.buffers()}
    return copy.deepcopy(layer, memo)


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Run the method alone on recorded inputs; for the golden vectors."""
    logits: Tensor = model(input_ids=inputs["input_ids"], use_cache=False).logits
    return logits
