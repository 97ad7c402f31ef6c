"""SAM: second-order approximation method (fu2023sam); not the optimiser of the same name.

    min over Delta and masks M of k entries:  g^T M Delta + 1/2 (M Delta)^T H (M Delta)
    with H = diag(h):  Delta = -g / h,  gain g^2 / (2 |h|),  so M = 1 where g^2 / |h| is among the largest

To second order this is the best choice of entries to train, in closed form. The curvature h is expensive, so in
practice it counts as constant and the gradient decides. Trained: of every pretrained tensor the share `kept`, chosen
once by `calibrate` from the gradient summed over the first batches (599 in the authors' script, without a step, and
each clipped to norm 1). Stored: those values and their positions. At inference the weights are where they always were.

As in the released default the sum keeps signs, so that noise cancels, and every tensor has its own ranking: tensors
of fewer than 1 / `kept` entries are left out.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from . import _kit as kit
from . import _recorded as recorded
from . import _sparse as sparse


def gain(gradient: Tensor, curvature: Tensor | float = 1.0) -> Tensor:
    """What freeing an entry gains to second order, up to the factor 1/2."""
    return gradient**2 / torch.as_tensor(curvature).abs()


def apply(model: nn.Module, *, kept: float = 0.005) -> nn.Module:
    """Free every pretrained parameter; `calibrate` then masks."""
    kit.freeze(model)
    for parameter in sparse.parameters(model).values():
        parameter.requires_grad_(True)
    kit.attach(model, "sam_peft", sparse.Sparse(kept))
    return model


def summed(model: nn.Module, losses: Iterable[Tensor], clip: float | None = 1.0) -> dict[str, Tensor]:
    """Sum the gradients of the losses with their signs. `clip`: the largest norm that a loss's gradient may have."""
    parameters = sparse.parameters(model)
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for loss in losses:
        gradients = sparse.clipped(torch.autograd.grad(loss, list(parameters.values()), materialize_grads=True), clip)
        for name, gradient in zip(parameters, gradients, strict=True):
            total[name] += gradient
    return total


def calibrate(
    model: nn.Module, losses: Iterable[Tensor], curvature: Mapping[str, Tensor] | None = None
) -> nn.Module:
    """Sum the gradients of the losses, choose in every tensor, and let only the chosen entries move."""
    return fix(model, summed(model, losses), curvature)


def fix(
    model: nn.Module, total: Mapping[str, Tensor], curvature: Mapping[str, Tensor] | None = None
) -> nn.Module:
    """Let only the entries with the largest gains in each tensor move from now on."""
    kept = sparse.of(model, "sam_peft").kept
    masks: dict[str, Tensor] = {}
    for name, gradient in total.items():
        scores = gain(gradient) if curvature is None else gain(gradient, curvature[name])
        masks |= sparse.choose({name: scores}, int(kept * gradient.numel()))
    return sparse.only(model, "sam_peft", masks)


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Sum, choose, and mask the gradient of a recorded batch; for the golden vectors."""
    total = summed(model, recorded.losses(model, inputs))
    fix(model, total)
    model.zero_grad()
    next(recorded.losses(model, inputs)).backward()
    gradients = {name: p.grad for name, p in sparse.parameters(model).items() if p.grad is not None}
    return {
        "scores": recorded.flat(total),                             # (all entries,)
        "gains": gain(recorded.flat(total), inputs["curvature"]),   # (all entries,)
        "mask": recorded.flat(sparse.of(model, "sam_peft").masks),  # (all entries,)
        "output": recorded.flat(gradients),                         # (all entries,)
    }


def pack(model: nn.Module) -> dict[str, Tensor]:
    """What one task stores: the chosen values and their positions."""
    return sparse.pack(model, "sam_peft")


def unpack(model: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    """Write one task's numbers into the pretrained model."""
    return sparse.unpack(model, state)
