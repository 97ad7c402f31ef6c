"""U-MAM and S-MAM: a mix-and-match adapter that is pruned to a budget (lawton2023nas).

    phi <- M * phi,    M = 1 where the score, the sum over steps of |phi * dL/dphi|, is among the largest

The tensors are those of a mix-and-match adapter: prefixes P_k and P_v at every attention, and a parallel adapter
(W_down, b_down, W_up, b_up) at every feed-forward block. The score of an entry estimates how the loss changes if the
entry becomes zero. `calibrate` trains all tensors for a few steps, sums the scores, resets the tensors to their start
and sets all entries to zero except the share `kept`. Training then changes only these.

Unstructured (U-MAM): one ranking of all entries. Structured (S-MAM): a ranking of whole units, see `units`.
Stored: the kept values, and the positions of the kept entries or units. At inference the tensors keep their full
width. A pruned key is a key of zeros, and still takes part in the softmax.

This is a reconstruction. The authors published no code, and we have read only the paper's abstract and summaries of it.
These parts are ours, not the paper's: the units, the sum over steps, the single round of pruning, the reset, and
prefixes without an MLP.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from . import _kit as kit
from . import _sparse as sparse
from . import parallel_adapter, prefix_tuning

Named = dict[str, Tensor]


class Budget(sparse.Sparse):
    """The share that is kept, of entries or of units, and the masks after pruning."""

    def __init__(self, kept: float, structured: bool):
        super().__init__(kept)
        self.structured = structured


def apply(
    model: nn.Module, *, prefix_length: int = 30, bottleneck: int = 512, scale: float = 4.0, kept: float = 0.1,
    structured: bool = False,
) -> nn.Module:
    """Freeze the model and add prefixes and adapters. `calibrate` prunes them."""
    prefix_tuning.apply(model, prefix_length=prefix_length, use_mlp=False, name="u_mam")
    parallel_adapter.apply(model, bottleneck=bottleneck, scale=scale, name="u_mam")
    kit.attach(model, "u_mam", Budget(kept, structured))
    return model


def budget(model: nn.Module) -> Budget:
    """Return the budget, which all prefixes and adapters share."""
    [child] = (child for child in kit.attached(model, "u_mam") if isinstance(child, Budget))
    return child


def tensors(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return all prefixes and adapters by name."""
    return {name: p for name, p in model.named_parameters() if f".{name}".split(".")[-2] == "u_mam"}


def units(named: Mapping[str, Tensor]) -> dict[str, Named]:
    """Sum scores over each unit of S-MAM. The tensor whose positions identify the units is the key.

    A prefix unit is one key or one value. A hidden unit of an adapter is its row of W_down, its entry of b_down and its
    column of W_up. An output unit is the whole b_up of one block.
    """
    found: dict[str, Named] = {"prefix": {}, "hidden": {}, "output": {}}
    for name, value in named.items():
        path, _, tensor = name.rpartition(".")
        if tensor in ("P_k", "P_v"):
            found["prefix"][name] = value.sum(1)                                            # (prefix_length,)
        elif tensor == "W_down":
            hidden = value.sum(1) + named[f"{path}.b_down"] + named[f"{path}.W_up"].sum(0)  # (bottleneck,)
            found["hidden"][name] = hidden
        elif tensor == "b_up":
            found["output"][name] = value.sum()[None]                                       # (1,)
    return found


def spread(chosen: Mapping[str, Tensor], named: Mapping[str, Tensor]) -> Named:
    """Turn masks over units into masks over the entries of every tensor."""
    masks = {}
    for name, value in named.items():
        path, _, tensor = name.rpartition(".")
        unit = chosen[f"{path}.W_down" if tensor in ("b_down", "W_up") else name]
        masks[name] = (unit[:, None] if tensor in ("P_k", "P_v", "W_down") else unit).expand(value.shape)
    return masks


def count(named: Mapping[str, Tensor], kept: float) -> int:
    """Return how many entries or units are kept: the share of each kind of tensor, rounded up, summed."""
    sizes = Counter[str]()
    for name, value in named.items():
        sizes[name.rpartition(".")[2]] += value.numel()
    return sum(math.ceil(kept * size) for size in sizes.values())


def choose(scores: Named, kept: float, *, structured: bool) -> Named:
    """Return the masks of the largest scores. S-MAM ranks each kind of unit separately."""
    if not structured:
        return sparse.choose(scores, count(scores, kept))
    chosen: Named = {}
    for ranked in units(scores).values():
        chosen |= sparse.choose(ranked, count(ranked, kept))
    return spread(chosen, scores)


def calibrate(model: nn.Module, losses: Iterable[Tensor], lr: float = 1e-2) -> nn.Module:
    """Train by gradient descent with one step per loss, prune by the summed scores, and reset the rest."""
    live, search = tensors(model), budget(model)
    start = {name: p.detach().clone() for name, p in live.items()}
    scores = {name: torch.zeros_like(p) for name, p in start.items()}
    for loss in losses:
        gradients = torch.autograd.grad(loss, list(live.values()))
        with torch.no_grad():
            for (name, p), gradient in zip(live.items(), gradients, strict=True):
                p.sub_(lr * gradient)
                scores[name] += (p * gradient).abs()
    masks = choose(scores, search.kept, structured=search.structured)
    with torch.no_grad():
        for name, p in live.items():
            p.copy_(start[name] * masks[name])
    return sparse.only(model, "u_mam", masks)


def pack(model: nn.Module) -> Named:
    """Return what one task stores: kept values, and positions of kept entries or units."""
    state = sparse.pack(model, "u_mam")
    if budget(model).structured:
        state = {name: value for name, value in state.items() if not name.endswith("@")}
        for masks in units({name: mask.double() for name, mask in budget(model).masks.items()}).values():
            state |= {f"{name}@": unit.nonzero()[:, 0] for name, unit in masks.items()}     # (kept units,)
    return state


@torch.no_grad()
def unpack(model: nn.Module, state: Named) -> nn.Module:
    """Write the stored values of one task into the tensors, and zero everywhere else."""
    live, masks = tensors(model), Named()
    structured = budget(model).structured
    ranked = [*units(live).values()] if structured else [live]
    for name, value in ((name, value) for named in ranked for name, value in named.items()):
        masks[name] = torch.zeros_like(value, dtype=torch.bool)
        masks[name].view(-1)[state[f"{name}@"]] = True
    masks = spread(masks, live) if structured else masks
    for name, p in live.items():
        p.zero_()
        p[masks[name]] = state[name]
    return sparse.only(model, "u_mam", masks)
