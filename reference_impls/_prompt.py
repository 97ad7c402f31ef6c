"""Extra input positions for any `transformers` model.

`prepend` puts vectors in front of the embedded input, so that the encoder of an encoder-decoder, or else the only
stack, receives [P; X]. With `prepend_each` every input has vectors of its own. The model treats them as ordinary
positions: they get position embeddings, the mask is padded with ones, the tokens move to the right, and a cache stores
them.

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

from peftonomy import UsageError

from . import _kit as kit

__all__ = ["by_name", "cached", "of_tokens", "prepend", "prepend_each", "reader"]

Prompts = Callable[[Tensor, Tensor | None], Tensor]
Arguments = tuple[tuple[()], dict[str, Any]]


def of_tokens(model: nn.Module, length: int) -> Tensor:
    """Return embeddings of tokens, drawn one by one: (length, d_embed). Raises UsageError without a vocabulary."""
    if not kit.inventory(model).dims["vocab"]:
        raise UsageError("a model with a vocabulary was expected: the prompt starts at embeddings of its tokens")
    table = cast(Tensor, cast(PreTrainedModel, model).get_input_embeddings().weight).detach()
    return table[torch.randint(len(table), (length,))].clone()


def prepend(model: nn.Module, prompt: Callable[[], Tensor], length: int) -> list[RemovableHandle]:
    """Prepend `prompt()`, of shape (length, d_embed), to every embedded input of `model`."""
    return prepend_each(model, partial(_alike, prompt), length)


def _alike(prompt: Callable[[], Tensor], embedded: Tensor, mask: Tensor | None) -> Tensor:
    return prompt()


def prepend_each(model: nn.Module, prompts: Prompts, length: int) -> list[RemovableHandle]:
    """Prepend `prompts(embedded, mask)`, of shape (batch, length, d_embed), to every embedded input of `model`.

    The embedded input is (batch, n, d_embed), and its mask (batch, n) or None. `prompts` may also return
    (length, d_embed).
    """
    base = cast(Any, cast(PreTrainedModel, model).base_model)
    stack = reader(base)
    if hasattr(base, "encoder") and hasattr(base, "decoder"):
        return [
            stack.register_forward_pre_hook(partial(_enter, prompts, length), with_kwargs=True),
            base.decoder.register_forward_pre_hook(partial(_widen_source, length), with_kwargs=True),
        ]
    if base.main_input_name == "input_ids":
        enter = stack.register_forward_pre_hook(partial(_enter, prompts, length), with_kwargs=True)
    else:       # an image has no token embeddings: the prompt is prepended to the embedded patches
        enter = base.embeddings.register_forward_hook(partial(_enter_patches, prompts))
    pooler = getattr(stack, "pooler", None)
    chosen = isinstance(pooler, nn.Linear)      # reads the first vector only, which must be a token's
    end = stack.encoder if chosen else stack
    handles = [enter, end.register_forward_hook(partial(_leave, length), with_kwargs=True)]
    if pooler is not None and not chosen:
        handles.append(pooler.register_forward_pre_hook(partial(_before_pooler, length)))
    return handles


def reader(base: Any) -> Any:
    """Return the stack that reads the input: the encoder of an encoder-decoder, else the only stack.

    In OPT it is a decoder inside the base model, and heads call that decoder directly.
    """
    inner = ("encoder", "decoder") if hasattr(base, "decoder") else ()
    return next((getattr(base, name) for name in inner if hasattr(base, name)), base)


def _enter(prompts: Prompts, length: int, stack: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
    given = by_name(stack, args, kwargs)
    new = 0 if cached(given) else length
    if new:
        tokens = given.pop("input_ids", None)
        embedded = given["inputs_embeds"] if tokens is None else stack.get_input_embeddings()(tokens)
        p = prompts(embedded, given.get("attention_mask"))
        given["inputs_embeds"] = _join(p, embedded)                                 # (batch, length + n, d_embed)
    if "attention_mask" in given:       # also covers the cached positions
        given["attention_mask"] = pad(given["attention_mask"], (length, 0), value=1)    # (batch, length + n)
    if "token_type_ids" in given:
        given["token_type_ids"] = pad(given["token_type_ids"], (new, 0))            # (batch, length + n)
    if "position_ids" in given:
        moved = given["position_ids"] + length
        first = torch.arange(new, device=moved.device).expand(len(moved), -1)
        given["position_ids"] = torch.cat([first, moved], dim=1)                    # (batch, length + n)
    return (), given


def _enter_patches(prompts: Prompts, _: nn.Module, args: tuple[Any, ...], embedded: Tensor) -> Tensor:
    return _join(prompts(embedded, None), embedded)                                 # (batch, length + n, d_embed)


def _leave(length: int, stack: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    if kwargs.get("input_ids") is None:     # otherwise `_enter` found the prompt in the cache
        output.last_hidden_state = output.last_hidden_state[:, length:]            # (batch, n, d_embed)
    return output


def _before_pooler(length: int, _: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return args[0][:, length:], *args[1:]                                           # (batch, n, d_embed)


def _widen_source(length: int, decoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
    given = by_name(decoder, args, kwargs)
    if "encoder_attention_mask" in given:
        mask = given["encoder_attention_mask"]
        given["encoder_attention_mask"] = pad(mask, (length, 0), value=1)           # (batch, length + n)
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
