"""Extra input positions for any `transformers` model.

`prepend` puts vectors in front of the embedded input, so that the encoder of an encoder-decoder, or else the only
stack, receives [P; X]. With `prepend_each` every input has vectors of its own. The model treats them as ordinary
positions: they get position embeddings, the mask is padded with ones, the tokens move to the right, and a cache stores
them. `on_embedded` changes X itself.

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

__all__ = ["behind_first", "by_name", "cached", "cut", "of_tokens", "on_embedded", "prepend", "prepend_each", "reader"]

Prompts = Callable[[Tensor, Tensor | None], Tensor]
Update = Callable[[Tensor, int], Tensor]
Arguments = tuple[tuple[()], dict[str, Any]]


def of_tokens(model: nn.Module, length: int) -> Tensor:
    """Return embeddings of tokens, drawn one by one: (length, d_embed). Raises UsageError without a vocabulary."""
    if not kit.inventory(model).dims["vocab"]:
        raise UsageError("a model with a vocabulary was expected: the prompt starts at embeddings of its tokens")
    table = cast(Tensor, cast(PreTrainedModel, model).get_input_embeddings().weight).detach()
    return table[torch.randint(len(table), (length,))].clone()


def behind_first(h: Tensor, length: int, prompts: Tensor | None = None) -> Tensor:
    """Return h (batch, 1 + length + n, d) with prompts in place of the `length` positions behind the first.

    prompts: (batch, any length, d). Without them, these positions are left out.
    """
    rest = h[:, 1 + length :]
    return torch.cat([h[:, :1], rest] if prompts is None else [h[:, :1], prompts, rest], dim=1)


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
    base = kit.base(model)
    stack, entry = reader(base), _Entry(prompts, length)
    if hasattr(base, "encoder") and hasattr(base, "decoder"):
        return [
            stack.register_forward_pre_hook(entry.enter, with_kwargs=True),
            base.decoder.register_forward_pre_hook(partial(_widen_source, length), with_kwargs=True),
        ]
    if base.main_input_name == "input_ids":
        enter = stack.register_forward_pre_hook(entry.enter, with_kwargs=True)
    else:       # an image has no token embeddings: the prompt is prepended to the embedded patches
        enter = base.embeddings.register_forward_hook(entry.enter_patches)
    return [enter, *_cut(stack, entry)]


def cut(model: nn.Module, length: int) -> list[RemovableHandle]:
    """Remove the first `length` positions at the end of the stack that reads the input, and before its pooler."""
    return _cut(reader(kit.base(model)), _Entry(_none, length))


def _none(embedded: Tensor, mask: Tensor | None) -> Tensor:
    raise AssertionError("nothing is prepended to the embedded input")


def _cut(stack: Any, entry: _Entry) -> list[RemovableHandle]:
    pooler = getattr(stack, "pooler", None)
    chosen = isinstance(pooler, nn.Linear)      # reads the first vector only, which must be a token's
    end = stack.encoder if chosen else stack
    handles = [end.register_forward_hook(entry.leave)]
    if pooler is not None and not chosen:
        handles.append(pooler.register_forward_pre_hook(entry.before_pooler))
    return handles


def on_embedded(model: nn.Module, update: Update) -> list[RemovableHandle]:
    """Replace every embedded input x of `model` by `update(x, past)`, before a prompt is prepended.

    x is (batch, n, d_embed), and `past` the number of positions in the cache, those of a prompt among them. Call it
    before `prepend`.
    """
    stack, embedding = reader(kit.base(model)), _Embedding(update)
    return [
        stack.register_forward_pre_hook(embedding.enter, with_kwargs=True),
        stack.get_input_embeddings().register_forward_hook(embedding.embed),
    ]


def reader(base: Any) -> Any:
    """Return the stack that reads the input: the encoder of an encoder-decoder, else the only stack.

    In OPT it is a decoder inside the base model, and heads call that decoder directly.
    """
    inner = ("encoder", "decoder") if hasattr(base, "decoder") else ()
    return next((getattr(base, name) for name in inner if hasattr(base, name)), base)


class _Entry:
    """The prompts of a model. `new` is the number of positions that its current run prepends."""

    def __init__(self, prompts: Prompts, length: int):
        self.prompts, self.length, self.new = prompts, length, length

    def enter(self, stack: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        given = by_name(stack, args, kwargs)
        new = self.new = 0 if _past(given) else self.length
        if new:
            tokens = given.pop("input_ids", None)
            embedded = given["inputs_embeds"] if tokens is None else stack.get_input_embeddings()(tokens)
            p = self.prompts(embedded, given.get("attention_mask"))
            given["inputs_embeds"] = _join(p, embedded)                                 # (batch, length + n, d_embed)
        if "attention_mask" in given:       # also covers the cached positions
            given["attention_mask"] = pad(given["attention_mask"], (self.length, 0), value=1)   # (batch, length + n)
        if "token_type_ids" in given:
            given["token_type_ids"] = pad(given["token_type_ids"], (new, 0))            # (batch, length + n)
        if "position_ids" in given:
            moved = given["position_ids"] + self.length
            first = torch.arange(new, device=moved.device).expand(len(moved), -1)
            given["position_ids"] = torch.cat([first, moved], dim=1)                    # (batch, length + n)
        return (), given

    def enter_patches(self, _: nn.Module, args: tuple[Any, ...], embedded: Tensor) -> Tensor:
        return _join(self.prompts(embedded, None), embedded)                            # (batch, length + n, d_embed)

    def leave(self, _: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state[:, self.new :]              # (batch, n, d_embed)
        return output

    def before_pooler(self, _: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return args[0][:, self.new :], *args[1:]                                        # (batch, n, d_embed)


class _Embedding:
    """The update of the embedded tokens of the stack that reads the input.

    A model may embed other tokens with the same matrix, such as those of its decoder. They have no update.
    """

    def __init__(self, update: Update):
        self.update = update
        self.past: int | None = None            # the cached positions of the tokens that are embedded next

    def enter(self, stack: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = by_name(stack, args, kwargs)
        if "inputs_embeds" not in given:
            self.past = _past(given)
            return args, kwargs
        given["inputs_embeds"] = self.update(given["inputs_embeds"], _past(given))
        return (), given

    def embed(self, _: nn.Module, args: Any, x: Tensor) -> Tensor:
        if self.past is None:
            return x
        past, self.past = self.past, None
        return self.update(x, past)


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
    return _past(given) > 0


def _past(given: dict[str, Any]) -> int:
    """Return how many positions are in the cache that this call of a stack continues."""
    cache = given.get("cache", given.get("past_key_values"))
    return 0 if cache is None else int(cache.get_seq_length())


def by_name(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call of `module` by name. Arguments that are None are left out."""
    given = inspect.signature(module.forward).bind(*args, **kwargs).arguments
    rest = given.pop("kwargs", {})
    return {name: value for name, value in {**given, **rest}.items() if value is not None}
