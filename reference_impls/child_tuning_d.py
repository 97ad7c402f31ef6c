"""Child-Tuning_D: one child network per task, chosen by Fisher information (xu2021childtuning).

    theta <- theta - eta * M * g,    M = 1 where F is among its largest, a fraction p;  F = mean of g^2 over the data
    with the gradient g of each tensor first clipped to norm 1, as in the authors' code

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
from . import _recorded as recorded
from . import _sparse as sparse


class Child(kit.Child):
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


def fisher(model: nn.Module, losses: Iterable[Tensor], clip: float | None = 1.0) -> dict[str, Tensor]:
    """Average the squared gradients of the losses. `clip`: the largest norm that a tensor's gradient may have."""
    parameters = inside(model)
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    count = 0
    for loss in losses:
        count += 1
        for name, gradient in zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True):
            [small] = sparse.clipped([gradient], clip)
            total[name] += small**2
    return {name: value / max(count, 1) for name, value in total.items()}


def calibrate(model: nn.Module, losses: Iterable[Tensor]) -> nn.Module:
    """Choose the child from the task's losses, one per batch, and mask all gradients from now on."""
    return fix(model, fisher(model, losses))


def fix(model: nn.Module, fisher: dict[str, Tensor]) -> nn.Module:
    """Let only the entries inside the layers with the largest Fisher information move from now on."""
    parameters = inside(model)
    scores = torch.cat([f.flatten() for f in fisher.values()])             # (all entries inside the layers,)
    child = _child(model)
    chosen = torch.zeros_like(scores, dtype=torch.bool)
    chosen[scores.topk(int(child.kept * len(scores))).indices] = True
    _mask(model, dict(zip(parameters, chosen.split([p.numel() for p in parameters.values()]), strict=True)))
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Score, choose, and mask the gradient of a recorded batch; for the golden vectors."""
    scores = fisher(model, recorded.losses(model, inputs))
    fix(model, scores)
    model.zero_grad()
    next(recorded.losses(model, inputs)).backward()
    gradients = {w.name: w.value.grad for w in kit.weights(model) if w.pretrained and w.value.grad is not None}
    return {
        "scores": recorded.flat(scores),                            # (entries inside the layers,)
        "mask": recorded.flat(_child(model).masks),                 # (entries inside the layers,)
        "output": recorded.flat(gradients),                         # (all entries,)
    }


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
