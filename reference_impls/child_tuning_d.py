"""Child-Tuning_D: one child network per task, chosen by Fisher information (xu2021childtuning).

    theta <- theta - eta * M * g,    M = 1 where F is among its largest, a fraction p;  F = mean of g^2 over the data

Trained: a fraction p (`kept`) of all entries inside the layers, chosen once over all of them together by
`calibrate`; and, as in the authors' code, everything pretrained outside the layers (embeddings, pooler) without
a mask. Stored: those numbers, and for the chosen ones their positions. At inference: a full model. The authors'
weight decay also shrinks the masked-out entries, which then differ from the checkpoint: use none if the
difference is to stay sparse.
"""

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor, nn

from . import _kit as kit


class Child(nn.Module):
    """Remembers which entries form the child network."""

    def __init__(self, kept: float):
        super().__init__()
        self.kept = kept
        self.masks: dict[str, Tensor] = {}      # parameter name -> bool, of the parameter's shape


def inside(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that get a mask: those of the layers."""
    return {w.name: w.value for w in kit.weights(model) if w.pretrained and w.layer is not None}


def apply(model: nn.Module, *, kept: float = 0.3) -> nn.Module:
    """Free every pretrained parameter; `calibrate` then masks."""
    kit.freeze(model)
    for weight in kit.weights(model):
        if weight.pretrained:
            weight.value.requires_grad_(True)
    kit.attach(model, "child_tuning_d", Child(kept))
    return model


def calibrate(model: nn.Module, losses: Iterable[Tensor]) -> nn.Module:
    """Choose the child from the task's losses, one per batch, and mask all gradients from now on."""
    parameters = inside(model)
    fisher = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for loss in losses:
        for name, gradient in zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True):
            fisher[name] += gradient**2
    scores = torch.cat([f.flatten() for f in fisher.values()])             # (all entries inside the layers,)
    child = _child(model)
    chosen = torch.zeros_like(scores, dtype=torch.bool)
    chosen[scores.topk(int(child.kept * len(scores))).indices] = True
    _mask(model, dict(zip(parameters, chosen.split([p.numel() for p in parameters.values()]), strict=True)))
    return model


def pack(model: nn.Module) -> dict[str, Tensor]:
    """What one task stores: values and positions inside the layers, whole tensors outside."""
    masks = _child(model).masks
    state = {}
    for weight in kit.weights(model):
        if weight.name in masks:
            state[f"{weight.name}@"] = masks[weight.name].flatten().nonzero()[:, 0]     # (kept here,)
            state[weight.name] = weight.value.detach()[masks[weight.name]]              # (kept here,)
        elif weight.pretrained:
            state[weight.name] = weight.value.detach().clone()
    return state


@torch.no_grad()
def unpack(model: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    """Write one task's numbers into the pretrained model."""
    for weight in kit.weights(model):
        if f"{weight.name}@" in state:
            weight.value.view(-1)[state[f"{weight.name}@"]] = state[weight.name]
        elif weight.name in state:
            weight.value.copy_(state[weight.name])
    return model


def _child(model: nn.Module) -> Child:
    [child] = kit.attached(model, "child_tuning_d")
    assert isinstance(child, Child)
    return child


def _mask(model: nn.Module, flat: dict[str, Tensor]) -> None:
    masks = _child(model).masks
    for name, parameter in inside(model).items():
        masks[name] = flat[name].view_as(parameter)
        parameter.register_hook(partial(torch.mul, masks[name]))
