"""aLoRA: activated LoRA (greenewald2025alora; code_alora).

    h_t = W_0 x_t + (alpha / r) [t >= t_inv] B A x_t,    t_inv where the last invocation begins

Trained: A (r, d_in) and B (d_out, r) beside the query, key and value weights. At inference the pair stays, since
tokens before the invocation must see W_0 alone: their keys and values are those of the base model, cache included.
`invoke` says which tokens are the invocation; an input without them is the base model's, as in peft. Before
`invoke` the pair acts everywhere, as a LoRA does.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from . import _kit as kit
from .lora import LoRA


class Invocation(kit.Child):
    """Finds the invocation in each input of the model."""

    tokens: Tensor | None = None        # (n,)
    active: Tensor | None = None        # (batch, length), of the present input; None is everywhere

    def look(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        cache = kwargs.get("cache", kwargs.get("past_key_values"))
        if self.tokens is None or ids is None:
            self.active = None
        elif cache is None or not cache.get_seq_length() or self.active is None:
            self.active = started(ids, self.tokens)
        else:       # goes on where the cache ends
            self.active = self.active[:, -1:] | started(ids, self.tokens)


def started(ids: Tensor, tokens: Tensor) -> Tensor:
    """Which positions of (batch, length) lie at or after the beginning of the last occurrence of the tokens."""
    here = torch.zeros_like(ids, dtype=torch.bool)
    if ids.shape[1] >= len(tokens):
        windows = ids.unfold(1, len(tokens), 1)                     # (batch, length - n + 1, n)
        here[:, : windows.shape[1]] = (windows == tokens.to(ids)).all(-1)
    later = here.flip(1).cumsum(1).flip(1) - here.long()            # occurrences that begin after each position
    last = here & (later == 0)
    return last.cumsum(1) > 0


class ActivatedLoRA(LoRA):
    """A correction that waits for the invocation."""

    invocation: Invocation      # not a submodule

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        active = self.invocation.active
        changed = super().after(x, y)
        return changed if active is None else torch.where(active[..., None], changed, y)


def invoke(model: nn.Module, tokens: Sequence[int]) -> nn.Module:
    """Let the corrections act from the last occurrence of these tokens on."""
    cast(Any, model).alora.tokens = torch.tensor(tokens)
    return model


def apply(
    model: nn.Module, *, r: int = 32, alpha: float = 32.0, dropout: float = 0.05,
    targets: tuple[str, ...] = ("attn.q", "attn.k", "attn.v"),
) -> nn.Module:
    """Freeze the model and put a correction beside every targeted weight."""
    kit.freeze(model)
    invocation = Invocation()
    for site in kit.sites(model, targets):
        child = ActivatedLoRA(site.d_in, site.d_out, r=r, alpha=alpha, dropout=dropout)
        kit.share(child, invocation=invocation)
        kit.attach(site, "alora", child)
    kit.attach(model, "alora", invocation).append(
        model.register_forward_pre_hook(invocation.look, with_kwargs=True)
    )
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run one module on recorded inputs with recorded token ids; for the golden vectors."""
    [(site, child)] = kit.at_sites(model, "alora", ActivatedLoRA)
    outputs = {}
    for name, ids, x in (("batch_output", "batch_ids", "batch"), ("output", "ids", "x")):
        child.invocation.active = started(inputs[ids], inputs["tokens"])
        outputs[name] = site.module(inputs[x])
    return outputs
