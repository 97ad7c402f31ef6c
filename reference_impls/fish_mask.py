"""FISH Mask: training neural networks with fixed sparse masks (sung2021fish).

    theta <- theta - eta M * g,    M = 1 where F is among its largest;  F = mean of g_n^2 over examples n

Trained: the share `kept` of all pretrained entries, chosen once, over all tensors together, by `calibrate` from the
loss of single examples (the empirical Fisher information: g_n is the gradient for the true label). Stored: those
values and their positions. At inference the weights are where they always were.

The authors' script takes a new classifier out of the budget: it is trained whole, and its size is subtracted from the
number of entries that may be chosen. Here the head is the caller's, and the budget is for the pretrained weights.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from . import _kit as kit
from . import _recorded as recorded
from . import _sparse as sparse


def apply(model: nn.Module, *, kept: float = 0.005) -> nn.Module:
    """Free every pretrained parameter; `calibrate` then masks."""
    kit.freeze(model)
    for parameter in sparse.parameters(model).values():
        parameter.requires_grad_(True)
    kit.attach(model, "fish_mask", sparse.Sparse(kept))
    return model


def fisher(model: nn.Module, losses: Iterable[Tensor]) -> dict[str, Tensor]:
    """The sum of squared gradients of the losses, one per example, for every entry."""
    parameters = sparse.parameters(model)
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for loss in losses:
        gradients = torch.autograd.grad(loss, list(parameters.values()), materialize_grads=True)
        for name, gradient in zip(parameters, gradients, strict=True):
            total[name] += gradient**2
    return total


def calibrate(model: nn.Module, losses: Iterable[Tensor]) -> nn.Module:
    """Choose the mask from the losses of single examples, 1024 in the paper, and let only its entries move."""
    return fix(model, fisher(model, losses))


def fix(model: nn.Module, scores: dict[str, Tensor]) -> nn.Module:
    """Let only the entries with the largest scores move from now on."""
    count = int(sparse.of(model, "fish_mask").kept * sum(s.numel() for s in scores.values()))
    return sparse.only(model, "fish_mask", sparse.choose(scores, count))


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Score, choose, and mask the gradient of a recorded batch; for the golden vectors."""
    scores = fisher(model, recorded.losses(model, inputs))
    fix(model, scores)
    model.zero_grad()
    next(recorded.losses(model, inputs)).backward()
    gradients = {name: p.grad for name, p in sparse.parameters(model).items() if p.grad is not None}
    return {
        "scores": recorded.flat(scores),                            # (all entries,)
        "mask": recorded.flat(sparse.of(model, "fish_mask").masks),  # (all entries,)
        "output": recorded.flat(gradients),                         # (all entries,)
    }


def pack(model: nn.Module) -> dict[str, Tensor]:
    """What one task stores: the chosen values and their positions."""
    return sparse.pack(model, "fish_mask")


def unpack(model: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    """Write one task's numbers into the pretrained model."""
    return sparse.unpack(model, state)
