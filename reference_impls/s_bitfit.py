"""S-BitFit: whole bias vectors, found by pruning (lawton2023nas).

    delta_g <- m_g delta_g,    m_g = 1 where the score sum_i |delta_i * dL/d delta_i| of a vector is among the largest

As U-BitFit, but a bias vector is kept whole or not at all, so that no positions need storing. `calibrate` searches,
ranks the vectors by their score and keeps those that still fit into the budget: the share `kept` of each vector's
entries, rounded up and summed. Trained and stored: the kept vectors, at most that budget; the search moves all
biases. At inference the biases are where they always were.

No code was published and nobody here read the paper's text: how scores are summed and how the budget is filled are
ours.
"""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from . import _kit as kit
from . import _sparse as sparse
from .u_bitfit import search


def apply(model: nn.Module, *, kept: float = 0.2) -> nn.Module:
    """Free every bias; `calibrate` then prunes."""
    kit.freeze(model)
    for bias in sparse.parameters(model, ".bias").values():
        bias.requires_grad_(True)
    kit.attach(model, "s_bitfit", sparse.Sparse(kept))
    return model


def fill(scores: Mapping[str, Tensor], budget: int) -> list[str]:
    """The vectors that fit into a budget of entries, best score first; one that no longer fits is passed over."""
    chosen, left = [], budget
    for name in sorted(scores, key=lambda n: -float(scores[n].sum())):
        if scores[name].numel() <= left:
            chosen.append(name)
            left -= scores[name].numel()
    return chosen


def calibrate(model: nn.Module, losses: Iterable[Tensor], lr: float = 1e-2) -> nn.Module:
    """Search, fill the budget with vectors, and let only those move from now on."""
    scores = search(model, losses, lr)
    kept = sparse.of(model, "s_bitfit").kept
    chosen = fill(scores, sum(math.ceil(kept * s.numel()) for s in scores.values()))
    masks = {name: torch.full_like(s, name in chosen, dtype=torch.bool) for name, s in scores.items()}
    return sparse.only(model, "s_bitfit", masks)


def pack(model: nn.Module) -> dict[str, Tensor]:
    """What one task stores: the kept vectors."""
    biases = sparse.parameters(model, ".bias")
    return {n: biases[n].detach().clone() for n, mask in sparse.of(model, "s_bitfit").masks.items() if mask.all()}


def unpack(model: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    """Write one task's vectors into the pretrained model."""
    return sparse.unpack(model, state)
