"""Train a few entries of the model's own parameters, and store only those.

`choose` ranks the entries of several tensors together. `only` registers hooks on the gradients, so that only the chosen
entries are trained. `pack` and `unpack` write and read the values of one task with their positions.

If the optimiser also changes entries whose gradient is zero (weight decay), the change is not sparse.
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
    """The masks of the trained entries. A method attaches it to the model."""

    def __init__(self, kept: float):
        super().__init__()
        self.kept = kept
        self.masks: dict[str, Tensor] = {}      # parameter name -> bool, of the parameter's shape
        self.hooks: list[RemovableHandle] = []


def of(model: nn.Module, name: str) -> Sparse:
    """Return the instance that is attached under this name."""
    [child] = (child for child in kit.attached(model, name) if isinstance(child, Sparse))
    return child


def parameters(model: nn.Module, suffix: str = "") -> dict[str, nn.Parameter]:
    """Return the pretrained parameters whose names end in `suffix`, by name."""
    return {w.name: w.value for w in kit.weights(model) if w.pretrained and w.name.endswith(suffix)}


def clipped(gradients: Sequence[Tensor], norm: float | None) -> list[Tensor]:
    """Scale the gradients so that their joint norm is at most `norm`, as torch's `clip_grad_norm_` does."""
    if norm is None:
        return list(gradients)
    total = torch.nn.utils.get_total_norm(gradients)
    factor = (norm / (total + 1e-6)).clamp(max=1.0)
    return [factor * gradient for gradient in gradients]


def choose(scores: Named, count: int) -> dict[str, Tensor]:
    """Return masks that are true at the `count` largest scores of all tensors together."""
    flat = torch.cat([s.flatten() for s in scores.values()])                # (all entries,)
    chosen = torch.zeros_like(flat, dtype=torch.bool)
    chosen[flat.topk(count).indices] = True
    parts = chosen.split([s.numel() for s in scores.values()])
    return {name: part.view_as(score) for (name, score), part in zip(scores.items(), parts, strict=True)}


def only(model: nn.Module, name: str, masks: Mapping[str, Tensor]) -> nn.Module:
    """Set the gradient of these parameters to zero outside their masks."""
    child = of(model, name)
    for hook in child.hooks:
        hook.remove()
    child.masks = dict(masks)
    live = dict(model.named_parameters())
    child.hooks = [live[n].register_hook(partial(torch.mul, mask)) for n, mask in masks.items()]
    return model


def pack(model: nn.Module, name: str, whole: Iterable[str] = ()) -> dict[str, Tensor]:
    """Return the values and positions of the chosen entries, and the parameters `whole` in full."""
    live, state = dict(model.named_parameters()), {}
    for parameter, mask in of(model, name).masks.items():
        state[f"{parameter}@"] = mask.flatten().nonzero()[:, 0]             # (kept,)
        state[parameter] = live[parameter].detach()[mask]                   # (kept,)
    return state | {parameter: live[parameter].detach().clone() for parameter in whole}


@torch.no_grad()
def unpack(model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Write the stored values of one task into the pretrained model."""
    live = dict(model.named_parameters())
    for name, value in state.items():
        if not name.endswith("@"):
            live[name].view(-1)[state.get(f"{name}@", ...)] = value.flatten()
    return model
