"""Weights that are held in another form and made anew wherever they are read, for the backward pass as well.

A parametrisation alone would leave each weight that it makes alive from the forward pass to the backward pass, since
the gradient of what the module reads needs it.
"""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.utils import parametrize
from torch.utils.hooks import RemovableHandle

__all__ = ["Recomputed", "register", "remove"]


class Recomputed(nn.Module):
    """A parametrisation of a frozen weight. A method says in `right_inverse` and `forward` how it is held and made."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.shape = weight.shape
        self.open: list[saved_tensors_hooks] = []       # of the forward pass that runs
        self.handles: list[RemovableHandle] = []

    def begin(self, host: nn.Module, args: Any) -> None:
        hooks = saved_tensors_hooks(partial(self.pack, host), unpack)
        hooks.__enter__()
        self.open.append(hooks)

    def end(self, host: nn.Module, args: Any, output: Any) -> None:
        self.open.pop().__exit__()

    def pack(self, host: nn.Module, tensor: Tensor) -> Tensor | tuple[nn.Module, bool, torch.dtype]:
        """In place of the weight, or of its transpose, that a map keeps: how to make it again."""
        if tensor.requires_grad or tensor.ndim != 2 or tensor.numel() != self.shape.numel():
            return tensor
        return host, tensor.shape != self.shape or not tensor.is_contiguous(), tensor.dtype


def unpack(kept: Tensor | tuple[nn.Module, bool, torch.dtype]) -> Tensor:
    if isinstance(kept, Tensor):
        return kept
    host, turned, dtype = kept
    weight = cast(Tensor, host.weight).detach().to(dtype)
    return weight.T if turned else weight


def register(host: nn.Module, held: Recomputed) -> None:
    """Hold the weight of a linear map so from now on."""
    parametrize.register_parametrization(host, "weight", held, unsafe=True)
    held.handles += [
        host.register_forward_pre_hook(held.begin),
        host.register_forward_hook(held.end, prepend=True, always_call=True),   # before methods take the output
    ]


def remove(host: nn.Module) -> None:
    """Make the weight a plain parameter again, with the numbers that it has now."""
    made = nn.Parameter(cast(Tensor, host.weight).detach().clone(), requires_grad=False)
    for handle in cast(Any, host).parametrizations.weight[0].handles:
        handle.remove()
    parametrize.remove_parametrizations(host, "weight")
    del host.weight
    others = dict(host.named_parameters(recurse=False))
    for name, parameter in {"weight": made, **others}.items():      # in the old order
        host._parameters.pop(name, None)
        host.register_parameter(name, parameter)
