"""Pools of prompts with keys. The plain model reads an image first, and its state is compared with the keys."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.utils.hooks import RemovableHandle

from . import _kit as kit

__all__ = ["Querying", "by_head", "likeness", "most", "pulled"]


class Querying(kit.Child):
    """A child of the model that runs each input through the plain model first, without gradients and dropout.

    Its hooks must do nothing while `reading`. Afterwards `query` is the state of the first token, (batch, d_model).
    """

    reading = False
    query: Tensor

    def listen(self, model: nn.Module) -> RemovableHandle:
        """Run the plain model before every run of `model`."""
        base = kit.base(model)
        return cast(nn.Module, base).register_forward_pre_hook(self._ask, with_kwargs=True)

    def _ask(self, base: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.reading:
            return
        training = base.training
        self.reading = True
        base.eval()
        try:
            with torch.no_grad():
                self.query = base(*args, **kwargs).last_hidden_state[:, 0].clone()
        finally:
            self.reading = False
            base.train(training)


def by_head(p: Tensor, heads: int) -> Tensor:
    """Return keys or values by their heads, (..., length, heads * head_dim) -> (..., heads, length, head_dim)."""
    parts: Tensor = p.unflatten(-1, (heads, -1))
    return parts.transpose(-2, -3)


def likeness(query: Tensor, keys: Tensor) -> Tensor:
    """Return the cosines of queries and keys, (batch, d) and (keys, d) -> (batch, keys)."""
    return normalize(query, dim=-1) @ normalize(keys, dim=-1).T


def most(likeness: Tensor, k: int, *, together: bool) -> Tensor:
    """Return the numbers of the k most similar keys, (batch, keys) -> (batch, k).

    With `together` they are the same for all images of a batch: those that most of the images chose.
    """
    chosen = likeness.topk(k, dim=-1).indices                                       # (batch, k)
    if not together:
        return chosen
    every = torch.arange(likeness.shape[1], device=chosen.device)
    votes = (chosen[..., None] == every).sum(dim=(0, 1))                            # (keys,)
    return votes.argsort(descending=True, stable=True)[:k].clone().expand(len(chosen), -1)


class _Pull(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, likeness: Tensor, weight: float) -> Tensor:
        ctx.weight, ctx.like = weight, (likeness.dtype, likeness.device)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        dtype, device = ctx.like
        return grads[0], torch.tensor(-ctx.weight, dtype=dtype, device=device), None


def pulled(x: Tensor, likeness: Tensor, weight: float) -> Tensor:
    """Return x, and subtract `weight * likeness` from the loss: the backward pass adds the gradient of that term.

    `likeness` is one number. So any training loop works unchanged. Scaling of the loss does not reach the term.
    """
    return cast(Tensor, _Pull.apply(x, likeness, weight))       # type: ignore[no-untyped-call]
