"""U-BitFit: single bias entries, found by pruning (lawton2023nas).

    delta <- M * delta,    M = 1 where the score |delta * dL/d delta| is among the largest;  b = b_0 + delta

A search phase trains every bias and sums over its batches what, to first order, undoing each entry's change would
do to the loss. `calibrate` is that phase: it trains, keeps the best entries of all biases together, and rewinds. Then
only the winners are trained. Trained and stored: the share `kept` of all bias entries (stored with their positions);
the search moves all. At inference the biases are where they always were.

No code was published and nobody here read the paper's text: the sum over batches, one round of pruning and the rewind
are ours.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from . import _kit as kit
from . import _sparse as sparse


def apply(model: nn.Module, *, kept: float = 0.1) -> nn.Module:
    """Free every bias; `calibrate` then prunes."""
    kit.freeze(model)
    for bias in sparse.parameters(model, ".bias").values():
        bias.requires_grad_(True)
    kit.attach(model, "u_bitfit", sparse.Sparse(kept))
    return model


def search(model: nn.Module, losses: Iterable[Tensor], lr: float = 1e-2) -> dict[str, Tensor]:
    """Train all biases by gradient descent, one step per loss, and rewind. Returns the score of every entry."""
    biases = sparse.parameters(model, ".bias")
    start = {name: bias.detach().clone() for name, bias in biases.items()}
    scores = {name: torch.zeros_like(bias) for name, bias in start.items()}
    for loss in losses:
        gradients = dict(zip(biases, torch.autograd.grad(loss, list(biases.values())), strict=True))
        with torch.no_grad():
            for name, bias in biases.items():
                bias.sub_(lr * gradients[name])
                scores[name] += ((bias - start[name]) * gradients[name]).abs()
    with torch.no_grad():
        for name, bias in biases.items():
            bias.copy_(start[name])
    return scores


def calibrate(model: nn.Module, losses: Iterable[Tensor], lr: float = 1e-2) -> nn.Module:
    """Search, keep the entries of the largest scores, and let only those move from now on."""
    scores = search(model, losses, lr)
    count = int(sparse.of(model, "u_bitfit").kept * sum(s.numel() for s in scores.values()))
    return sparse.only(model, "u_bitfit", sparse.choose(scores, count))


def pack(model: nn.Module) -> dict[str, Tensor]:
    """What one task stores: the winners and their positions."""
    return sparse.pack(model, "u_bitfit")


def unpack(model: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    """Write one task's numbers into the pretrained model."""
    return sparse.unpack(model, state)
