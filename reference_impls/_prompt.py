"""Extra input positions for any `transformers` model.

`prepend` puts vectors in front of the embedded input, so that the encoder of an encoder-decoder, or else the only
stack, receives [P; X]. The model treats them as ordinary positions: they get position embeddings, the mask is padded
with ones, the tokens move to the right, and a cache stores them.

The heads do not see the extra positions. They are removed at the end of the stack and before its pooler, so the logits
are as long as the input and the first token is still the first. A decoder sees them through cross-attention.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

__all__ = ["by_name", "cached", "prepend", "reader"]

Prompt = Callable[[], Tensor]
Arguments = tuple[tuple[()], dict[str, Any]]


def prepend(model: nn.Module, prompt: Prompt) -> list[RemovableHandle]:
    """Prepend `prompt()`, of shape (length, d_embed), to every embedded input of `model`."""
    base = cast(Any, cast(PreTrainedModel, model).base_model)
    stack = reader(base)
    if hasattr(base, "encoder") and hasattr(base, "decoder"):
        return [
            stack.register_forward_pre_hook(partial(_enter, prompt), with_kwargs=True),
            base.decoder.register_forward_pre_hook(partial(_widen_source, prompt), with_kwargs=True),
        ]
    if base.main_input_name == "input_ids":
        enter = stack.register_forward_pre_hook(partial(_enter, prompt), with_kwargs=True)
    else:       # an image has no token embeddings: the prompt is prepended to the embedded patches
        enter = base.embeddings.register_forward_hook(partial(_enter_patches, prompt))
    pooler = getattr(stack, "pooler", None)
    chosen = isinstance(pooler, nn.Linear)      # reads the first vector only, which must be a token's
    end = stack.encoder if chosen else stack
    handles = [enter, end.register_forward_hook(partial(_leave, prompt), with_kwargs=True)]
    if pooler is not None and not chosen:
        handles.append(pooler.register_forward_pre_hook(partial(_before_pooler, prompt)))
    return handles


def reader(base: Any) -> Any:
    """Return the stack that reads the input: the encoder of an encoder-decoder, else the only stack.

    In OPT it is a decoder inside the base model, and heads call that decoder directly.
    """
    inner = ("encoder", "decoder") if hasattr(base, "decoder") else ()
    return next((getattr(base, name) for name in inner if hasattr(base, name)), base)


def _enter(prompt: Prompt, stack: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
    given = by_name(stack, args, kwargs)
    p = prompt()
    new = 0 if cached(given) else len(p)
    if new:
        tokens = given.pop("input_ids", None)
        embedded = given["inputs_embeds"] if tokens is None else stack.get_input_embeddings()(tokens)
        given["inputs_embeds"] = _join(p, embedded)                                 # (batch, length + n, d_embed)
    if "attention_mask" in given:       # also covers the cached positions
        given["attention_mask"] = pad(given["attention_mask"], (len(p), 0), value=1)    # (batch, length + n)
    if "token_type_ids" in given:
        given["token_type_ids"] = pad(given["token_type_ids"], (new, 0))            # (batch, length + n)
    if "position_ids" in given:
        moved = given["position_ids"] + len(p)
        first = torch.arange(new, device=moved.device).expand(len(moved), -1)
        given["position_ids"] = torch.cat([first, moved], dim=1)                    # (batch, length + n)
    return (), given


def _enter_patches(prompt: Prompt, _: nn.Module, args: tuple[Any, ...], embedded: Tensor) -> Tensor:
    return _join(prompt(), embedded)                                                # (batch, length + n, d_embed)


def _leave(prompt: Prompt, stack: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    if kwargs.get("input_ids") is None:     # otherwise `_enter` found the prompt in the cache
        output.last_hidden_state = output.last_hidden_state[:, len(prompt()) :]     # (batch, n, d_embed)
    return output


def _before_pooler(prompt: Prompt, _: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return args[0][:, len(prompt()) :], *args[1:]                                   # (batch, n, d_embed)


def _widen_source(prompt: Prompt, decoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
    given = by_name(decoder, args, kwargs)
    if "encoder_attention_mask" in given:
        mask = given["encoder_attention_mask"]
        given["encoder_attention_mask"] = pad(mask, (len(prompt()), 0), value=1)    # (batch, length + n)
    return (), given


def _join(prompt: Tensor, embedded: Tensor) -> Tensor:
    p = prompt.to(embedded.dtype).expand(len(embedded), -1, -1)
    return torch.cat([p, embedded], dim=1)                                          # (batch, length + n, d_embed)


def cached(given: dict[str, Any]) -> bool:
    """Return whether this call of a stack continues a sequence whose beginning is in the cache."""
    cache = given.get("cache", given.get("past_key_values"))
    return cache is not None and cache.get_seq_length() > 0


def by_name(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call of `module` by name. Arguments that are None are left out."""
    given = inspect.signature(module.forward).bind(*args, **kwargs).arguments
    rest = given.pop("kwargs", {})
    return {name: value for name, value in {**given, **rest}.items() if value is not None}
