"""U-MAM and S-MAM: a MAM adapter, pruned (lawton2023nas).

    phi <- M * phi,    M = 1 where the score |phi * dL/d phi| is among the largest

The tensors are those of a mix-and-match adapter, prefixes P_k, P_v and parallel adapters, and a first-order score says
what setting an entry to zero would do to the loss. `calibrate` trains all of them for a while, sums the scores, prunes
and rewinds what is left. Not structured (U-MAM): single entries, one ranking over everything. Structured (S-MAM): whole
units, namely a key or value of a prefix, a hidden unit of an adapter, an output bias. Trained and stored: the share
`kept` (with the positions of entries or units). At inference all tensors remain, with zeros in them.

No code was published and nobody here read the paper's text: the units, the sums, one round of pruning and the rewind
are ours, as are prefixes that are trained without an MLP. A pruned key still takes part in the softmax.
"""

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from . import _kit as kit
from . import _sparse as sparse
from . import parallel_adapter, prefix_tuning

Named = dict[str, Tensor]


class Budget(sparse.Sparse):
    """How much is kept, and of what."""

    def __init__(self, kept: float, structured: bool):
        super().__init__(kept)
        self.structured = structured


def apply(
    model: nn.Module, *, prefix_length: int = 30, bottleneck: int = 512, scale: float = 4.0, kept: float = 0.1,
    structured: bool = False,
) -> nn.Module:
    """Freeze the model and give it prefixes and adapters; `calibrate` then prunes."""
    prefix_tuning.apply(model, prefix_length=prefix_length, use_mlp=False, name="u_mam")
    parallel_adapter.apply(model, bottleneck=bottleneck, scale=scale, name="u_mam")
    kit.attach(model, "u_mam", Budget(kept, structured))
    return model


def tensors(model: nn.Module) -> dict[str, nn.Parameter]:
    """All prefixes and adapters by name."""
    return {name: p for name, p in model.named_parameters() if f".{name}".split(".")[-2] == "u_mam"}


def units(named: Named) -> Iterator[tuple[str, Named]]:
    """The units of S-MAM: kind and, by the name of the tensor that identifies it, a number for each unit."""
    rows = {name: value.sum(-1) for name, value in named.items() if value.ndim == 2}
    yield "prefix", {name: value for name, value in rows.items() if name.endswith((".P_k", ".P_v"))}
    down = [name.removesuffix("W_down") for name in named if name.endswith(".W_down")]
    yield "hidden", {
        f"{path}W_down": rows[f"{path}W_down"] + named[f"{path}b_down"] + named[f"{path}W_up"].sum(0) for path in down
    }
    yield "output", {name: value.sum()[None] for name, value in named.items() if name.endswith(".b_up")}


def spread(chosen: Named, named: Named) -> Named:
    """Masks over whole tensors from masks over units."""
    masks = {}
    for name, unit in chosen.items():
        masks[name] = unit.expand(named[name].shape) if unit.numel() == 1 else unit[:, None].expand(named[name].shape)
        if name.endswith("W_down"):
            path = name.removesuffix("W_down")
            masks[f"{path}b_down"] = unit
            masks[f"{path}W_up"] = unit.expand(named[f"{path}W_up"].shape)      # (d_model, bottleneck)
    return masks


def choose(scores: Named, kept: float, *, structured: bool) -> Named:
    """Masks within the budget: the share `kept` of each kind of tensor, rounded up and summed."""

    def count(named: Named) -> int:
        sizes: dict[str, int] = {}
        for name, value in named.items():
            kind = name.rpartition(".")[2]
            sizes[kind] = sizes.get(kind, 0) + value.numel()
        return sum(math.ceil(kept * size) for size in sizes.values())

    if not structured:
        return sparse.choose(scores, count(scores))
    chosen: Named = {}
    for _, judged in units(scores):
        chosen |= sparse.choose(judged, count(judged))
    return spread(chosen, scores)


def calibrate(model: nn.Module, losses: Iterable[Tensor], lr: float = 1e-2) -> nn.Module:
    """Search by gradient descent, one step per loss; prune; rewind what is left and let only that move."""
    live, budget = tensors(model), sparse.of(model, "u_mam")
    assert isinstance(budget, Budget)
    start = {name: p.detach().clone() for name, p in live.items()}
    scores = {name: torch.zeros_like(p) for name, p in start.items()}
    for loss in losses:
        gradients = torch.autograd.grad(loss, list(live.values()))
        with torch.no_grad():
            for (name, p), gradient in zip(live.items(), gradients, strict=True):
                p.sub_(lr * gradient)
                scores[name] += (p * gradient).abs()
    masks = choose(scores, budget.kept, structured=budget.structured)
    with torch.no_grad():
        for name, p in live.items():
            p.copy_(start[name] * masks[name])
    return sparse.only(model, "u_mam", masks)


def pack(model: nn.Module) -> dict[str, Tensor]:
    """What one task stores: values, and positions of entries or of units."""
    budget, state = sparse.of(model, "u_mam"), sparse.pack(model, "u_mam")
    assert isinstance(budget, Budget)
    if budget.structured:
        state = {name: value for name, value in state.items() if not name.endswith("@")}
        for _, units_ in units({name: mask.double() for name, mask in budget.masks.items()}):
            state |= {f"{name}@": unit.nonzero()[:, 0] for name, unit in units_.items()}    # (units kept here,)
    return state


@torch.no_grad()
def unpack(model: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    """Take one task's numbers."""
    live, budget = tensors(model), sparse.of(model, "u_mam")
    assert isinstance(budget, Budget)
    ones = {name: torch.ones_like(p) for name, p in live.items()}
    parts = [units_ for _, units_ in units(ones)] if budget.structured else [ones]
    masks = {name: torch.zeros_like(value, dtype=torch.bool) for part in parts for name, value in part.items()}
    for name, mask in masks.items():
        mask.view(-1)[state[f"{name}@"]] = True
    masks = spread(masks, ones) if budget.structured else masks
    for name, p in live.items():
        p.zero_()
        p[masks[name]] = state[name]
    return sparse.only(model, "u_mam", masks)
