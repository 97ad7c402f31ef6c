"""Weights that are stored in another form and recomputed whenever they are read, in the backward pass too.

With a parametrisation alone, autograd would save each computed weight from the forward pass to the backward pass,
because the gradient of the layer's input needs it. So while the layer's forward pass runs, autograd's hooks for saved
tensors are active. They save a `Recipe` instead of the weight.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.utils import parametrize
from torch.utils.hooks import RemovableHandle

__all__ = ["Recomputed", "register", "remove"]


class Recipe(NamedTuple):
    """What autograd saves instead of a layer's weight or the transpose of it."""

    host: nn.Module
    transposed: bool
    dtype: torch.dtype

    def tensor(self) -> Tensor:
        weight = cast(Tensor, self.host.weight).detach().to(self.dtype)
        return weight.T if self.transposed else weight


class Recomputed(nn.Module):
    """A parametrisation of a frozen weight. Subclasses store it in `right_inverse` and compute it in `forward`."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.shape = weight.shape
        self.open: list[saved_tensors_hooks] = []       # hooks of the running forward pass
        self.handles: list[RemovableHandle] = []

    def begin(self, host: nn.Module, args: Any) -> None:
        """Before the layer's forward pass: activate the hooks for saved tensors."""
        hooks = saved_tensors_hooks(partial(self.pack, host), unpack)
        hooks.__enter__()
        self.open.append(hooks)

    def end(self, host: nn.Module, args: Any, output: Any) -> None:
        """After the layer's forward pass, even if it failed: deactivate them."""
        self.open.pop().__exit__()

    def pack(self, host: nn.Module, tensor: Tensor) -> Tensor | Recipe:
        """Return a recipe for the weight or its transpose. Save any other tensor as it is.

        The weight is the saved matrix of its size that needs no gradient.
        """
        if tensor.requires_grad or tensor.ndim != 2 or tensor.numel() != self.shape.numel():
            return tensor
        return Recipe(host, tensor.shape != self.shape or not tensor.is_contiguous(), tensor.dtype)


def unpack(saved: Tensor | Recipe) -> Tensor:
    """Return the tensor that was saved, computed again if only its recipe was."""
    return saved.tensor() if isinstance(saved, Recipe) else saved


def register(host: nn.Module, weight: Recomputed) -> None:
    """Store the weight of a linear layer in the form of `weight`."""
    parametrize.register_parametrization(host, "weight", weight, unsafe=True)
    weight.handles += [
        host.register_forward_pre_hook(weight.begin),
        host.register_forward_hook(weight.end, prepend=True, always_call=True),     # before a method's own hooks
    ]


def remove(host: nn.Module) -> None:
    """Make the weight a plain parameter again, with its current values."""
    plain = nn.Parameter(cast(Tensor, host.weight).detach().clone(), requires_grad=False)
    for handle in cast(Any, host).parametrizations.weight[0].handles:
        handle.remove()
    parametrize.remove_parametrizations(host, "weight")
    del host.weight
    others = dict(host.named_parameters(recurse=False))
    for name, parameter in {"weight": plain, **others}.items():     # in the original order
        host._parameters.pop(name, None)
        host.register_parameter(name, parameter)
