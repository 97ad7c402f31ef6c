"""Training a few entries of parameters that the model already has, and storing only those.

`choose` ranks the entries of several tensors together; `only` lets nothing but the chosen ones move, through hooks
on the gradients; `pack` and `unpack` are what such a task stores: values and their positions.

With an optimiser that moves entries whose gradient is zero (weight decay) the difference is no longer sparse.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from . import _kit as kit

__all__ = ["Sparse", "choose", "clipped", "of", "only", "pack", "parameters", "unpack"]

Named = Mapping[str, Tensor]


class Sparse(kit.Child):
    """Remembers which entries are trained. A method attaches it to its model."""

    def __init__(self, kept: float):
        super().__init__()
        self.kept = kept
        self.masks: dict[str, Tensor] = {}      # parameter name -> bool, of the parameter's shape
        self.hooks: list[RemovableHandle] = []


def of(model: nn.Module, name: str) -> Sparse:
    """The one that the method of this name has attached."""
    [child] = (child for child in kit.attached(model, name) if isinstance(child, Sparse))
    return child


def parameters(model: nn.Module, suffix: str = "") -> dict[str, nn.Parameter]:
    """The pretrained parameters whose names end so, by name."""
    return {w.name: w.value for w in kit.weights(model) if w.pretrained and w.name.endswith(suffix)}


def clipped(gradients: Sequence[Tensor], norm: float | None) -> list[Tensor]:
    """Scale the gradients down where their common norm exceeds `norm`, as torch's `clip_grad_norm_` does."""
    if norm is None:
        return list(gradients)
    total = torch.nn.utils.get_total_norm(gradients)
    factor = (norm / (total + 1e-6)).clamp(max=1.0)
    return [factor * gradient for gradient in gradients]


def choose(scores: Named, count: int) -> dict[str, Tensor]:
    """Masks, true at the `count` largest scores of all tensors together."""
    flat = torch.cat([s.flatten() for s in scores.values()])                # (all entries,)
    chosen = torch.zeros_like(flat, dtype=torch.bool)
    chosen[flat.topk(count).indices] = True
    parts = chosen.split([s.numel() for s in scores.values()])
    return {name: part.view_as(score) for (name, score), part in zip(scores.items(), parts, strict=True)}


def only(model: nn.Module, name: str, masks: Mapping[str, Tensor]) -> nn.Module:
    """From now on, of these parameters only the chosen entries have a gradient."""
    child = of(model, name)
    for hook in child.hooks:
        hook.remove()
    child.masks = dict(masks)
    live = dict(model.named_parameters())
    child.hooks = [live[n].register_hook(partial(torch.mul, mask)) for n, mask in masks.items()]
    return model


def pack(model: nn.Module, name: str, whole: Iterable[str] = ()) -> dict[str, Tensor]:
    """What one task stores: values and positions of the chosen entries, and the tensors that are trained whole."""
    live, state = dict(model.named_parameters()), {}
    for parameter, mask in of(model, name).masks.items():
        state[f"{parameter}@"] = mask.flatten().nonzero()[:, 0]             # (kept here,)
        state[parameter] = live[parameter].detach()[mask]                   # (kept here,)
    return state | {parameter: live[parameter].detach().clone() for parameter in whole}


@torch.no_grad()
def unpack(model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Write one task's numbers into the pretrained model."""
    live = dict(model.named_parameters())
    for name, value in state.items():
        if not name.endswith("@"):
            live[name].view(-1)[state.get(f"{name}@", ...)] = value.flatten()
    return model
