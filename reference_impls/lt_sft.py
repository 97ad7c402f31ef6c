"""LT-SFT: lottery ticket sparse fine-tuning (ansell2022ltsft).

    phase 1: train everything;  M = 1 where |theta_1 - theta_0| is among its largest, a share `kept`
    phase 2: from theta_0 again, theta <- theta - eta M * g;    what is learned is phi = theta - theta_0

Trained: in phase 1 every pretrained parameter, then the winners. `calibrate` is a plain phase 1 (one step of gradient
descent per loss); any training will do instead, followed by `rewind`. Stored: the differences phi and their positions.
They compose: one for a language and one for a task are added to the same weights, phi_L + phi_T, by `unpack`.
At inference the weights are where they always were.

When the authors train a language, they add `penalty` to the loss of both phases. Their code masks the base model only
and trains every head whole; here a pretrained head is masked like the rest and a new one is the caller's. Their
commands also freeze the norms. Their threshold lets ties in, so that it can keep more than it was asked to.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from . import _kit as kit
from . import _recorded as recorded
from . import _sparse as sparse


class Ticket(sparse.Sparse):
    """The start, to which training returns, and the winners."""

    def __init__(self, kept: float, start: dict[str, Tensor]):
        super().__init__(kept)
        self.start = start


def apply(model: nn.Module, *, kept: float = 0.01) -> nn.Module:
    """Free every pretrained parameter for phase 1, and remember where it was."""
    kit.freeze(model)
    start = {}
    for name, parameter in sparse.parameters(model).items():
        parameter.requires_grad_(True)
        start[name] = parameter.detach().clone()
    kit.attach(model, "lt_sft", Ticket(kept, start))
    return model


@torch.no_grad()
def differences(model: nn.Module) -> dict[str, Tensor]:
    """How far every entry is from where it started."""
    start = _ticket(model).start
    return {name: parameter - start[name] for name, parameter in sparse.parameters(model).items()}


def penalty(model: nn.Module, *, weight: float = 0.1) -> Tensor:
    """The mean distance of the parameters from where they started, times a weight; heads count in the mean."""
    start = _ticket(model).start
    far = torch.stack([(parameter - start[name]).abs().sum() for name, parameter in sparse.parameters(model).items()])
    return weight * far.sum() / sum(parameter.numel() for parameter in model.parameters())


@torch.no_grad()
def rewind(model: nn.Module) -> nn.Module:
    """End phase 1: keep the entries that moved most, put everything back, and let only the winners move."""
    ticket, moved = _ticket(model), {name: delta.abs() for name, delta in differences(model).items()}
    for name, parameter in sparse.parameters(model).items():
        parameter.copy_(ticket.start[name])
    count = int(ticket.kept * sum(delta.numel() for delta in moved.values()))
    return sparse.only(model, "lt_sft", sparse.choose(moved, count))


def descend(model: nn.Module, losses: Iterable[Tensor], lr: float) -> None:
    """Take one step of gradient descent for each loss, in either phase."""
    optimiser = torch.optim.SGD(sparse.parameters(model).values(), lr=lr)
    for loss in losses:
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    optimiser.zero_grad()


def calibrate(model: nn.Module, losses: Iterable[Tensor], lr: float = 1e-2) -> nn.Module:
    """Run a plain phase 1, one step of gradient descent per loss, and end it."""
    descend(model, losses, lr)
    return rewind(model)


def pack(model: nn.Module) -> dict[str, Tensor]:
    """What one task or language stores: the winners' differences and their positions."""
    moved, state = differences(model), sparse.pack(model, "lt_sft")
    for name, mask in _ticket(model).masks.items():
        state[name] = moved[name][mask]                             # (kept here,)
    return state


@torch.no_grad()
def unpack(model: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    """Add a task's or language's differences to the weights. Several may be added to one model."""
    live = dict(model.named_parameters())
    for name, delta in state.items():
        if not name.endswith("@"):
            live[name].view(-1).index_add_(0, state[f"{name}@"], delta)
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run both phases on recorded batches; for the golden vectors."""
    descend(model, recorded.losses(model, inputs), lr=inputs["lr"].item())
    scores = {name: delta.abs() for name, delta in differences(model).items()}
    rewind(model)
    masks = sparse.of(model, "lt_sft").masks
    descend(model, recorded.losses(model, inputs), lr=inputs["lr"].item())
    return {
        "scores": recorded.flat(scores),                            # (all entries,)
        "mask": recorded.flat(masks),                               # (all entries,)
        "output": recorded.flat(differences(model)),                # (all entries,)
        "penalty": penalty(model),
    }


def _ticket(model: nn.Module) -> Ticket:
    ticket = sparse.of(model, "lt_sft")
    assert isinstance(ticket, Ticket)
    return ticket
