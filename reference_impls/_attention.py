"""Extra keys and values, and extra terms, for any attention of a `transformers` model.

Models make queries, keys and values in their own ways (fused projections, rotary positions, grouped heads,
caches), and then all call one function with them. `widen` steps in between:

    attend(Q, [P_k; K], [P_v; V])      with P_k and P_v of (n_kv_heads, length, head_dim)

The new positions come in after rotary embedding and cache: they have no position, are never cached, and every
query sees them. The model's masks, position biases and positions stay what they were, and only grow by zeros on
the left. `beside` leaves the attention as it is and adds a term of its queries to what each head gives out.
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
    """Let `attention`, a module of `model`, also see the keys and values that `extra()` returns.

    Both are (n_kv_heads, length, head_dim). Raises TypeError for an architecture with an attention of its own.
    """
    return _joined(model, attention, "extra_keys_values", extra)


def beside(model: nn.Module, attention: nn.Module, term: Callable[[Tensor, float], Tensor]) -> RemovableHandle:
    """Add `term(queries, scaling)` to what the heads of `attention`, a module of `model`, give out.

    Queries, after rotary embedding, and result are (batch, n_heads, n, head_dim). Raises TypeError for an architecture
    with an attention of its own.
    """
    return _joined(model, attention, "extra_terms", term)


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
    """The model's own eager attention, over more keys and values where `widen` has been."""
    batch = len(key)
    for extra in getattr(module, "extra_keys_values", {}).values():
        p_k, p_v = (p.to(key.dtype).expand(batch, -1, -1, -1) for p in extra())     # of the model's type
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
