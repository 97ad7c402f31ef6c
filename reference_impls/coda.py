"""CoDA, conditional adapters: parameter-efficient transfer learning with fast inference (lei2023coda).

    y = x + A(LN(x)) + m * lambda * (F(x) - x),    lambda = soft top-k of LN(x) w_r,    m = 1 for the k best tokens

Every encoder layer F works for k = ceil(n / reduction) of its n tokens only, which a learned score picks; a small
adapter A works for all. The soft top-k maximises <s, lambda> plus `epsilon` times an entropy subject to
0 <= lambda <= 1 and sum(lambda) = k, by alternating closed steps, so the router gets a gradient. Trained: w_r
(d_model) and the adapter. At inference all of it remains, and the model is faster, not slower.

With `k_to_k` attention the chosen tokens see each other, with `k_to_all` every token of the layer's input. Here F
runs on all tokens, and masks make its outputs those of a run on the chosen ones (a test compares): the function,
without the saving. LN has no parameters of its own. Choosing needs the whole sequence: decoders stay as they are.
"""

import inspect
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear

from . import _kit as kit
from ._attention import added


def soft_top_k(s: Tensor, k: int, *, epsilon: float, steps: int = 50) -> Tensor:
    """Weights in [0, 1] that sum to k over the last dimension, the larger the score the larger. s: (..., n)."""
    b = -s
    for step in range(steps):
        e = max(epsilon, 4 * 0.7**step)         # from smooth to sharp: small values alone converge too slowly
        a = e * (math.log(k) - torch.logsumexp((s + b) / e, dim=-1, keepdim=True))      # (..., 1)
        b = (-s - a).clamp(max=0)                                   # (..., n)
    return torch.exp((s + a + b) / e)                               # (..., n)


class ConditionalAdapter(kit.Child):
    """Router and adapter of one encoder layer."""

    def __init__(self, d_model: int, *, bottleneck: int, reduction: int, epsilon: float, attention: str):
        super().__init__()
        self.w_r = nn.Parameter(d_model**-0.5 * torch.randn(d_model))
        self.W_down = nn.Parameter(0.02 * torch.randn(bottleneck, d_model))
        self.b_down = nn.Parameter(torch.zeros(bottleneck))
        self.W_up = nn.Parameter(torch.zeros(d_model, bottleneck))
        self.b_up = nn.Parameter(torch.zeros(d_model))
        self.reduction, self.epsilon, self.attention = reduction, epsilon, attention
        self.held: tuple[Tensor, Tensor, Tensor] | None = None

    def route(self, normed: Tensor, real: Tensor | None) -> tuple[Tensor, Tensor]:
        """Which tokens the layer works for, (batch, n) of bool, and their weights, (batch, n)."""
        s = normed @ self.w_r                                       # (batch, n)
        if real is not None:
            s = s.masked_fill(~real, -1e4)
        k = math.ceil(s.shape[1] / self.reduction)
        chosen = torch.zeros_like(s, dtype=torch.bool).scatter(1, s.topk(k).indices, value=True)
        return chosen, soft_top_k(s, k, epsilon=self.epsilon)

    def enter(self, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[()], dict[str, Any]]:
        bound = inspect.signature(layer.forward).bind(*args, **kwargs).arguments
        given = {**bound.pop("kwargs", {}), **bound}
        x, seen = given["hidden_states"], given.get("attention_mask")
        mask = None if seen is None else added(seen, x)
        real = None if mask is None else mask.amax(dim=(1, 2)) >= 0             # (batch, n)
        normed = layer_norm(x, x.shape[-1:])                        # (batch, n, d_model)
        chosen, weights = self.route(normed, real)
        self.held = x, normed, torch.where(chosen, weights, 0)
        if self.attention == "k_to_k" and seen is not None and seen.dtype == torch.long:    # ones and zeros
            given["attention_mask"] = seen * chosen[:, None, None]                          # (batch, 1, n, n)
        elif self.attention == "k_to_k":
            hidden = torch.zeros_like(weights).masked_fill(~chosen, torch.finfo(x.dtype).min)[:, None, None]
            given["attention_mask"] = hidden if mask is None else torch.minimum(mask, hidden)   # (batch, 1, 1 or n, n)
        return (), given

    def leave(self, y: Tensor) -> Tensor:
        assert self.held is not None
        x, normed, weights = self.held
        self.held = None                                            # keeps neither memory nor graph
        z = torch.relu(linear(normed, self.W_down, self.b_down))         # (batch, n, bottleneck)
        return x + linear(z, self.W_up, self.b_up) + weights[..., None] * (y - x)       # (batch, n, d_model)


def apply(
    model: nn.Module, *, bottleneck: int = 64, reduction: int = 3, epsilon: float = 1.0, attention: str = "k_to_k",
    name: str = "coda",
) -> nn.Module:
    """Freeze the model and give every encoder layer a router and an adapter. Raises ValueError without an encoder."""
    kit.freeze(model)
    layers = [layer for layer in kit.blocks(model, "layer") if layer.stack == "encoder"]
    if not layers:
        raise ValueError("CoDA needs an encoder: which tokens a layer works for depends on all of them")
    for layer in layers:
        adapter = ConditionalAdapter(
            layer.dims["d_model"], bottleneck=bottleneck, reduction=reduction, epsilon=epsilon, attention=attention
        )
        hooks = kit.attach(layer.module, name, adapter)
        hooks.append(layer.module.register_forward_pre_hook(adapter.enter, with_kwargs=True))
        hooks.append(kit.on_layer_output(layer.module, adapter.leave))
    return model
