"""FISH-DIP: sample-aware dynamic sparse fine-tuning (das2023fishdip; code_fish_dip).

    theta <- theta - eta M * g,    M = 1 where F is among its largest;  F = sum of g_n^2 over the worst examples n

Trained: the share `kept` of all pretrained entries at a time, over all tensors together. `calibrate` makes the first
choice from the losses of single examples, of which it uses the `hardest` largest. A training loop calls `renew` in the
same way after every `gap` steps. Stored, and at inference: a full model, because each choice lets other entries move.
"""

import heapq
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from . import _kit as kit
from . import _recorded as recorded
from . import _sparse as sparse


class Dynamic(sparse.Sparse):
    """The masks of the entries that are trained now."""

    def __init__(self, kept: float, *, hardest: int, gap: int):
        super().__init__(kept)
        self.hardest, self.gap = hardest, gap


def apply(model: nn.Module, *, kept: float = 0.01, hardest: int = 25, gap: int = 100) -> nn.Module:
    """Free every pretrained parameter; `calibrate` then masks."""
    kit.freeze(model)
    for parameter in sparse.parameters(model).values():
        parameter.requires_grad_(True)
    kit.attach(model, "fish_dip", Dynamic(kept, hardest=hardest, gap=gap))
    return model


def scores(model: nn.Module, losses: Iterable[Tensor], hardest: int) -> dict[str, Tensor]:
    """The sum of squared gradients of the largest losses, one per example. The smallest loss is never used."""
    parameters = sparse.parameters(model)
    worst: list[tuple[float, int, list[Tensor]]] = []
    for number, loss in enumerate(losses, start=1):
        gradients = torch.autograd.grad(loss, list(parameters.values()), materialize_grads=True)
        squares = [gradient**2 for gradient in gradients]
        heapq.heappush(worst, (loss.item(), -number, squares))
        if len(worst) > hardest:
            heapq.heappop(worst)
    if 1 < len(worst) == number:
        heapq.heappop(worst)
    parts = zip(*(squares for _, _, squares in worst), strict=True)
    return {name: torch.stack(part).sum(0) for name, part in zip(parameters, parts, strict=True)}


def renew(model: nn.Module, losses: Iterable[Tensor]) -> nn.Module:
    """Choose the entries that are trained from now on, from the losses of single examples."""
    child = sparse.of(model, "fish_dip")
    assert isinstance(child, Dynamic)
    found = scores(model, losses, child.hardest)
    count = int(child.kept * sum(score.numel() for score in found.values()))
    return sparse.only(model, "fish_dip", sparse.choose(found, count))


def calibrate(model: nn.Module, losses: Iterable[Tensor]) -> nn.Module:
    """Make the first choice."""
    return renew(model, losses)


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Score, choose, and mask the gradient of a recorded example; for the golden vectors."""
    child = sparse.of(model, "fish_dip")
    assert isinstance(child, Dynamic)
    found = scores(model, recorded.losses(model, inputs), child.hardest)
    renew(model, recorded.losses(model, inputs))
    model.zero_grad()
    next(recorded.losses(model, inputs)).backward()
    gradients = {name: p.grad for name, p in sparse.parameters(model).items() if p.grad is not None}
    return {
        "scores": recorded.flat(found),                             # (all entries,)
        "mask": recorded.flat(child.masks),                         # (all entries,)
        "output": recorded.flat(gradients),                         # (all entries,)
    }
