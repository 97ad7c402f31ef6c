"""Tiny-attention adapter: contexts are more important than the number of parameters (zhao2022tinyattention).

    h <- h + W_out attend(q, k, v) + b_out,    [q; k; v] = W_in LN(h) + b_in

An attention whose head is `d_a` wide, one by default, behind every self-attention. Trained: gain and shift of its layer
norm (d_model), W_in (3 d_a, d_model), W_out (d_model, d_a), their biases, and what the official code has besides
because it calls a ready-made attention module: U_in (3 d_a, d_a) and U_out (d_a, d_a) around the attention, with
biases. At inference all of it remains.

In models with a norm behind the attention's residual h is the output of that norm, as in the official code; in other
models it is the output of the attention, before the residual. Queries see what the model's own mask lets them see. Keys
of earlier calls are not cached, so generation must run without a cache. The official dropout of attention weights is
left out. Several copies can be trained as experts: `average` makes them one again.
"""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear, scaled_dot_product_attention

from . import _kit as kit
from ._attention import added
from .pfeiffer_adapter import norm_behind


class TinyAttention(kit.Child):
    """The adapter behind one self-attention."""

    def __init__(self, d_model: int, *, d_a: int):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(d_model))
        self.shift = nn.Parameter(torch.zeros(d_model))
        self.W_in = nn.Parameter(torch.empty(3 * d_a, d_model))
        self.b_in = nn.Parameter(torch.zeros(3 * d_a))
        self.U_in = nn.Parameter(torch.empty(3 * d_a, d_a))
        self.u_in = nn.Parameter(torch.zeros(3 * d_a))
        self.U_out = nn.Parameter(torch.empty(d_a, d_a))
        self.u_out = nn.Parameter(torch.zeros(d_a))
        self.W_out = nn.Parameter(torch.empty(d_model, d_a))
        self.b_out = nn.Parameter(torch.zeros(d_model))
        for weight in (self.W_in, self.U_out, self.W_out):
            nn.init.normal_(weight, std=0.02)
        nn.init.xavier_uniform_(self.U_in)
        self.mask: Tensor | None = None

    def see(self, attention: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note the mask that the model's own attention gets."""
        given = inspect.signature(attention.forward).bind(*args, **kwargs).arguments
        self.mask = given.get("attention_mask", given.get("mask"))      # (batch, 1, 1 or n, n), added to scores

    def behind(self, norm: nn.Module, args: tuple[Tensor, ...], h: Tensor) -> Tensor:
        return self.add(args[0], h)

    def add(self, _: Tensor, h: Tensor) -> Tensor:
        mask, self.mask = self.mask, None
        if mask is not None and mask.shape[-1] != h.shape[1]:
            raise ValueError("the tiny attention has no cache of its own: call the model with use_cache=False")
        normed = layer_norm(h, self.gain.shape, self.gain, self.shift)              # (b, n, d_model)
        x = linear(normed, self.W_in, self.b_in)                                    # (b, n, 3 d_a)
        maps = zip(x.chunk(3, dim=-1), self.U_in.chunk(3), self.u_in.chunk(3), strict=True)
        q, k, v = (linear(part, weight, bias) for part, weight, bias in maps)       # (b, n, d_a) each
        seen = scaled_dot_product_attention(q, k, v, None if mask is None else added(mask[:, 0], q))
        return h + linear(linear(seen, self.U_out, self.u_out), self.W_out, self.b_out)     # (b, n, d_model)


def apply(model: nn.Module, *, d_a: int = 1, name: str = "tiny_attn_adapter") -> nn.Module:
    """Freeze the model and put a tiny attention behind every self-attention."""
    kit.freeze(model)
    backbone: Any = model
    if backbone.config._attn_implementation not in ("eager", "peftonomy"):
        backbone.set_attn_implementation("eager")                       # the others may leave masks out
    for block in kit.blocks(model, "attention"):
        if block.name == "attn":
            adapter = TinyAttention(block.dims["d_model"], d_a=d_a)
            out = block.sites["attn.o"]
            hooks = kit.attach(out, name, adapter)
            hooks.append(block.module.register_forward_pre_hook(adapter.see, with_kwargs=True))
            if (norm := norm_behind(model, out.path)) is None:
                hooks.append(kit.on_output(out, adapter.add))
            else:
                hooks.append(norm.register_forward_hook(adapter.behind))
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Run the method alone on recorded inputs; for the golden vectors."""
    batch = {key: value for key, value in inputs.items() if key != "probe"}
    states: Tensor = model(**batch).last_hidden_state
    return states


@torch.no_grad()
def average(experts: Sequence[nn.Module]) -> nn.Module:
    """Write the mean of the experts, models with this method, into the first of them. Returns it."""
    for mine, *others in zip(*(kit.attached(model, "tiny_attn_adapter") for model in experts), strict=True):
        for parameter, *same in zip(mine.parameters(), *(o.parameters() for o in others), strict=True):
            parameter.copy_(torch.stack([parameter, *same]).mean(dim=0))
    return experts[0]
