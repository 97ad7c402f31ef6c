"""PALs: BERT and projected attention layers (stickland2019pals; code_pals#modeling.py:BERTPals).

    h <- LN(F(a) + a + gelu(W_up attend(Q, K, V) + b_up)),    Q, K, V = W_q z + b_q, W_k z + b_k, W_v z + b_v
    z = W_down x + b_down

with x the input of a layer, F its feed-forward block and a the input of that. Models whose norms come first add to the
layer's output instead. The narrow attention sees what the model's own mask lets it see.

Trained: the model, or its norms alone with `freeze`; for one task W_down (bottleneck, d_model) and W_up (d_model,
bottleneck), which all layers share, W_q, W_k and W_v (bottleneck, bottleneck) of each layer, and the biases. At
inference all of it remains. The matrices start small and not at zero, so the model starts near to where it was.
"""

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear

from peftonomy import UsageError

from . import _kit as kit
from ._attention import added
from .pfeiffer_adapter import norm_behind


def _normal(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape).normal_(std=0.02))


class Projections(kit.Child):
    """The matrices into the narrow space and back, which all layers share."""

    def __init__(self, d_model: int, *, bottleneck: int):
        super().__init__()
        self.W_down, self.b_down = _normal(bottleneck, d_model), nn.Parameter(torch.zeros(bottleneck))
        self.W_up, self.b_up = _normal(d_model, bottleneck), nn.Parameter(torch.zeros(d_model))


class Attention(kit.Child):
    """The narrow attention beside one layer."""

    shared: Projections     # not a submodule
    W_q: nn.Parameter       # (bottleneck, bottleneck), like W_k and W_v
    W_k: nn.Parameter
    W_v: nn.Parameter
    b_q: nn.Parameter       # (bottleneck,), like b_k and b_v
    b_k: nn.Parameter
    b_v: nn.Parameter

    def __init__(self, shared: Projections, *, bottleneck: int, heads: int, dropout: float, inside: bool):
        super().__init__()
        kit.share(self, shared=shared)
        for name in "qkv":
            self.register_parameter(f"W_{name}", _normal(bottleneck, bottleneck))
            self.register_parameter(f"b_{name}", nn.Parameter(torch.zeros(bottleneck)))
        self.heads = heads
        self.inside = inside
        self.dropout = nn.Dropout(dropout)
        self.x: Tensor | None = None
        self.mask: Tensor | None = None

    def note(self, _: nn.Module, args: tuple[Tensor, ...]) -> None:
        self.x = args[0]

    def see(self, attention: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note the mask that the model's own attention gets and, where no norm comes before it, its input."""
        given = inspect.signature(attention.forward).bind(*args, **kwargs).arguments
        if self.inside:
            self.x = next(iter(given.values()))                     # of the layer too; noted again by a checkpoint
        self.mask = given.get("attention_mask", given.get("mask"))      # (batch, 1, 1 or n, n), added to scores

    def forget(self, _: Tensor | None = None) -> None:
        self.x = self.mask = None                                   # keeps neither memory nor graph

    def before(self, _: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return self.add(args[0]).to(args[0].dtype), *args[1:]

    def add(self, h: Tensor) -> Tensor:
        if self.x is None:
            return h
        extra = self.extra(self.x, self.mask)
        if self.x.requires_grad:
            self.x.register_hook(self.forget)   # the second pass of a checkpoint notes x again, and does not come here
        self.forget()
        return h + extra

    def extra(self, x: Tensor, mask: Tensor | None) -> Tensor:
        z = linear(x, self.shared.W_down, self.shared.b_down)       # (batch, n, bottleneck)
        q, k, v = (
            linear(z, self.get_parameter(f"W_{name}"), self.get_parameter(f"b_{name}"))
            .unflatten(-1, (self.heads, -1)).transpose(1, 2) for name in "qkv"
        )  # fmt: skip                                              # (batch, heads, n, bottleneck / heads)
        scores = q @ k.mT * q.shape[-1] ** -0.5
        if mask is not None:
            scores = scores + added(mask, scores)
        read = self.dropout(scores.softmax(-1)) @ v
        return gelu(linear(read.transpose(1, 2).flatten(2), self.shared.W_up, self.shared.b_up))


def apply(
    model: nn.Module, *, bottleneck: int = 204, heads: int = 6, dropout: float = 0.1, freeze: bool = False,
    name: str = "pals",
) -> nn.Module:  # fmt: skip
    """Train the model or its norms, and put a narrow attention beside every layer.

    Raises UsageError for a model that is no encoder of text.
    """
    layers = kit.blocks(model, "layer")
    if not kit.inventory(model).dims["vocab"] or {layer.stack for layer in layers} != {"encoder"}:
        raise UsageError("an encoder of text alone was expected")
    kit.freeze(model)
    for weight in kit.weights(model):
        weight.value.requires_grad_(weight.pretrained and (not freeze or weight.kind == "norm"))
    backbone: Any = model
    if backbone.config._attn_implementation not in ("eager", "peftonomy"):
        backbone.set_attn_implementation("eager")                   # the others may leave masks out
    attentions = {block.layer: block.module for block in kit.blocks(model, "attention")}
    shared = Projections(layers[0].dims["d_model"], bottleneck=bottleneck)
    kit.attach(model, name, shared)
    for layer in layers:
        norm = norm_behind(model, layer.sites["mlp.down"].path)
        child = Attention(shared, bottleneck=bottleneck, heads=heads, dropout=dropout, inside=norm is not None)
        hooks = kit.attach(layer.module, name, child)
        hooks.append(attentions[layer.layer].register_forward_pre_hook(child.see, with_kwargs=True))
        if norm is None:
            hooks.append(layer.module.register_forward_pre_hook(child.note))
            hooks.append(kit.on_layer_output(layer.module, child.add))
        else:
            hooks.append(norm.register_forward_pre_hook(child.before))
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Run the method alone on recorded inputs; for the golden vectors."""
    states: Tensor = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).last_hidden_state
    return states
