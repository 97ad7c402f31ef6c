"""Extra input positions for any `transformers` model.

`prepend` puts vectors in front of the embedded input: what the encoder of an encoder-decoder, or else the only
stack, receives is [P; X]. To the model they are positions like any other: they get position embeddings, the mask
grows by ones, real tokens move to the right, and a cache holds them.

Heads must not notice. The positions are cut off where the stack ends, and before its pooler, so that logits are
as long as the input and the first token is still the first. A decoder does see them, through cross-attention.
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
    """Begin every input of `model` with `prompt()`, which is (length, d_embed): as wide as the vectors of tokens."""
    base = cast(Any, cast(PreTrainedModel, model).base_model)
    stack = reader(base)
    if hasattr(base, "encoder") and hasattr(base, "decoder"):
        return [
            stack.register_forward_pre_hook(partial(_enter, prompt), with_kwargs=True),
            base.decoder.register_forward_pre_hook(partial(_widen_source, prompt), with_kwargs=True),
        ]
    if base.main_input_name == "input_ids":
        enter = stack.register_forward_pre_hook(partial(_enter, prompt), with_kwargs=True)
    else:       # an image has no token table: the prompt joins the embedded patches
        enter = base.embeddings.register_forward_hook(partial(_enter_patches, prompt))
    pooler = getattr(stack, "pooler", None)
    chosen = isinstance(pooler, nn.Linear)      # gets the first vector alone, which must be a real one by then
    end = stack.encoder if chosen else stack
    handles = [enter, end.register_forward_hook(partial(_leave, prompt), with_kwargs=True)]
    if pooler is not None and not chosen:
        handles.append(pooler.register_forward_pre_hook(partial(_before_pooler, prompt)))
    return handles


def reader(base: Any) -> Any:
    """The stack that gets the input: the encoder of an encoder-decoder, else the only one.

    Where that is a decoder inside the base model (OPT), heads call it and leave the base model out.
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
    if "attention_mask" in given:       # covers the cached positions too
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
    if kwargs.get("input_ids") is None:     # else `_enter` found the prompt in the cache
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
    p = prompt.to(embedded.dtype).expand(len(embedded), -1, -1)                     # of the model's type
    return torch.cat([p, embedded], dim=1)                                          # (batch, length + n, d_embed)


def cached(given: dict[str, Any]) -> bool:
    """Whether this call of a stack goes on from a cache, so that the input's beginning is behind it."""
    cache = given.get("cache", given.get("past_key_values"))
    return cache is not None and cache.get_seq_length() > 0


def by_name(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call of `module`, all by name; None counts as not given."""
    given = inspect.signature(module.forward).bind(*args, **kwargs).arguments
    rest = given.pop("kwargs", {})
    return {name: value for name, value in {**given, **rest}.items() if value is not None}
