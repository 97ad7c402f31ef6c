"""SparseAdapter: an easy approach for improving the parameter-efficiency of adapters (he2022sparseadapter).

    h <- h + (W_up * M_up) relu((W_down * M_down) h + b_down) + b_up,    M = 1 where the score is among the largest

Adapters are pruned before they are trained. `calibrate` scores every entry of every adapter's matrices, keeps the
share `kept` with the largest scores over all of them together, and sets the others to zero for good. The score
"snip" is |W * dL/dW| on a few batches, by which the loss would notice that the entry is gone; "magnitude" is |W|.
Trained: the kept entries, and the biases. Stored: their values and positions. At inference the adapters remain.

A wide adapter at small `kept` costs as much as a narrow full one and does better: the paper's Large-Sparse. In the
authors' code the argument called sparsity is this `kept`, and the matrices can be those of LoRA or other modules.
"""

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from . import _kit as kit


class SparseAdapter(kit.Child):
    """The adapter behind one linear map."""

    def __init__(self, d_out: int, *, bottleneck: int, kept: float, score: str):
        super().__init__()
        self.W = nn.ParameterDict({
            "down": nn.Parameter(0.02 * torch.randn(bottleneck, d_out)),
            "up": nn.Parameter(0.02 * torch.randn(d_out, bottleneck)),
        })  # fmt: skip
        self.b_down = nn.Parameter(torch.zeros(bottleneck))
        self.b_up = nn.Parameter(torch.zeros(d_out))
        self.kept, self.score = kept, score
        self.masks: dict[str, Tensor] = {}      # "down" or "up" -> bool, of the matrix's shape

    def after(self, _: Tensor, h: Tensor) -> Tensor:
        z = torch.relu(linear(h, self.W["down"], self.b_down))      # (..., d_out) -> (..., bottleneck)
        return h + linear(z, self.W["up"], self.b_up)               # (..., bottleneck) -> (..., d_out)


def apply(
    model: nn.Module, *, bottleneck: int = 64, kept: float = 0.2, score: str = "snip",
    targets: tuple[str, ...] = ("attn.o", "mlp.down"), name: str = "sparseadapter",
) -> nn.Module:
    """Freeze the model and put an adapter behind every targeted linear map; `calibrate` then prunes."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        kit.attach(site, name, SparseAdapter(site.d_out, bottleneck=bottleneck, kept=kept, score=score))
    return model


def calibrate(model: nn.Module, losses: Iterable[Tensor], name: str = "sparseadapter") -> nn.Module:
    """Prune all adapters together by their scores on the task's losses, one per batch."""
    return prune(model, rank(model, losses, name), name)


def rank(model: nn.Module, losses: Iterable[Tensor], name: str = "sparseadapter") -> Tensor:
    """Score every entry of all matrices on the task's losses, one per batch."""
    adapters = _adapters(model, name)
    matrices = [matrix for adapter in adapters for matrix in adapter.W.values()]
    return torch.cat([s.flatten() for s in _scores(matrices, losses, adapters[0].score)])


def prune(model: nn.Module, scores: Tensor, name: str = "sparseadapter") -> nn.Module:
    """Set all entries but those with the largest scores to zero, for good."""
    adapters = _adapters(model, name)
    matrices = [matrix for adapter in adapters for matrix in adapter.W.values()]
    alive = torch.zeros_like(scores, dtype=torch.bool)              # (all entries of all matrices,)
    alive[scores.topk(int(adapters[0].kept * len(scores))).indices] = True
    masks = iter(alive.split([m.numel() for m in matrices]))
    for adapter in adapters:
        for half, matrix in adapter.W.items():
            adapter.masks[half] = next(masks).view_as(matrix)
            matrix.data.mul_(adapter.masks[half])
            matrix.register_hook(partial(torch.mul, adapter.masks[half]))
    return model


def _scores(matrices: list[nn.Parameter], losses: Iterable[Tensor], score: str) -> list[Tensor]:
    if score == "random":
        return [torch.rand_like(matrix) for matrix in matrices]
    if score == "magnitude":
        return [matrix.detach().abs() for matrix in matrices]
    total = [torch.zeros_like(matrix) for matrix in matrices]
    for loss in losses:
        for sum_, gradient in zip(total, torch.autograd.grad(loss, matrices), strict=True):
            sum_ += gradient
    return [(matrix.detach() * gradient).abs() for matrix, gradient in zip(matrices, total, strict=True)]


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the method alone on recorded inputs; for the golden vectors."""
    [(site, adapter)] = kit.at_sites(model, "sparseadapter", SparseAdapter)
    scores = rank(model, ((site.module(x) * inputs["probe"]).sum() for x in inputs["batches"]))
    prune(model, scores)
    return {
        "output": site.module(inputs["x"]),
        "scores": scores / scores.max(),
        "mask": torch.cat([mask.flatten() for mask in adapter.masks.values()]),
    }


def pack(model: nn.Module, name: str = "sparseadapter") -> dict[str, Tensor]:
    """What one task stores: values and positions of the kept entries, and the biases."""
    state: dict[str, Tensor] = {}
    for i, adapter in enumerate(_adapters(model, name)):
        state |= {f"{i}.b_down": adapter.b_down.detach().clone(), f"{i}.b_up": adapter.b_up.detach().clone()}
        for half, mask in adapter.masks.items():
            state[f"{i}.{half}"] = adapter.W[half].detach()[mask]               # (kept here,)
            state[f"{i}.{half}@"] = mask.flatten().nonzero()[:, 0]              # (kept here,)
    return state


@torch.no_grad()
def unpack(model: nn.Module, state: dict[str, Tensor], name: str = "sparseadapter") -> nn.Module:
    """Put one task's numbers into freshly applied adapters."""
    for i, adapter in enumerate(_adapters(model, name)):
        adapter.b_down.copy_(state[f"{i}.b_down"])
        adapter.b_up.copy_(state[f"{i}.b_up"])
        for half, matrix in adapter.W.items():
            matrix.zero_().view(-1)[state[f"{i}.{half}@"]] = state[f"{i}.{half}"]
    return model


def _adapters(model: nn.Module, name: str) -> list[SparseAdapter]:
    return [child for _, child in kit.at_sites(model, name, SparseAdapter)]
