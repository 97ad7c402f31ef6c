"""Extra keys and values, and extra terms, for any attention of a `transformers` model.

Models compute queries, keys and values in different ways: fused projections, rotary positions, grouped heads, caches.
All of them then call one attention function, which `widen` extends:

    attend(Q, [P_k; K], [P_v; V])      with P_k and P_v of (n_kv_heads, length, head_dim)

The extra keys and values are added after the rotary embedding and the cache. They have no position, are never cached,
and every query attends to them. The model's masks and position biases are padded with zeros on the left; positions do
not change. `beside` does not change the attention. It adds a function of the queries to the output of each head.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.utils.hooks import RemovableHandle
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask

__all__ = ["beside", "widen"]

Attended = tuple[Tensor, Tensor | None]


def widen(model: nn.Module, attention: nn.Module, extra: Callable[[], tuple[Tensor, Tensor]]) -> RemovableHandle:
    """Let `attention`, a module of `model`, also attend to the keys and values that `extra()` returns.

    Both are (n_kv_heads, length, head_dim). Raises TypeError if the architecture does not use the attention interface
    of transformers.
    """
    return _joined(model, attention, "extra_keys_values", extra)


def beside(model: nn.Module, attention: nn.Module, term: Callable[[Tensor, float], Tensor]) -> RemovableHandle:
    """Add `term(queries, scaling)` to the output of the heads of `attention`, a module of `model`.

    The queries (after the rotary embedding) and the result are (batch, n_heads, n, head_dim). Raises TypeError if the
    architecture does not use the attention interface of transformers.
    """
    return _joined(model, attention, "extra_terms", term)


def added(mask: Tensor, like: Tensor) -> Tensor:
    """Return a mask as numbers that are added to scores. In some models it holds flags, or ones and zeros."""
    if mask.is_floating_point():
        return mask
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(~mask.bool(), torch.finfo(like.dtype).min)


def _joined(model: nn.Module, attention: nn.Module, kind: str, extra: Callable[..., Any]) -> RemovableHandle:
    if not hasattr(sys.modules[type(attention).__module__], "eager_attention_forward"):
        raise TypeError(f"{type(attention).__name__} does not go through the attention interface of transformers")
    cast(PreTrainedModel, model).set_attn_implementation("peftonomy")
    if not hasattr(attention, kind):
        setattr(attention, kind, OrderedDict())
    hooks = getattr(attention, kind)
    handle = RemovableHandle(hooks)
    hooks[handle.id] = extra
    return handle


def attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
    position_bias: Tensor | None = None, **options: Any,
) -> Attended:
    """Compute the model's eager attention with the extra keys, values and terms of this module."""
    batch = len(key)
    for extra in getattr(module, "extra_keys_values", {}).values():
        p_k, p_v = (p.to(key.dtype).expand(batch, -1, -1, -1) for p in extra())
        key = torch.cat([p_k, key], dim=2)                                  # (batch, n_kv_heads, length + n, head_dim)
        value = torch.cat([p_v, value], dim=2)                              # (batch, n_kv_heads, length + n, head_dim)

    def grown(bias: Tensor) -> Tensor:
        return pad(bias, (key.shape[2] - bias.shape[-1], 0))                # (batch, heads, n_queries, length + n)

    if attention_mask is not None:
        attention_mask = grown(attention_mask)
    if position_bias is not None:                                           # T5
        options["position_bias"] = grown(position_bias)
    eager = sys.modules[type(module).__module__].eager_attention_forward
    output, weights = cast(Attended, eager(module, query, key, value, attention_mask, **options))
    for term in getattr(module, "extra_terms", {}).values():
        output = output + term(query, options["scaling"]).transpose(1, 2)      # (batch, n, n_heads, head_dim)
    return output, weights


AttentionInterface.register("peftonomy", attend)
AttentionMaskInterface.register("peftonomy", eager_mask)
