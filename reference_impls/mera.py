"""MerA: merging pretrained adapters for few-shot learning (he2023mera).

    W_down = 1/N sum of P_n W_down,n,    b_down = 1/N sum of P_n b_down,n,    W_up = 1/N sum of W_up,n P_n^T

The hidden units of an adapter have no order, so before N adapters are averaged, those of each are matched with the
first one's: P_n is the optimal transport between two sets of units, by distance of their weights or of their
activations on some data. Units count alike, so the cheapest plan is a permutation, found exactly as an assignment.
`merge_adapters` does it; the merged adapter is then tuned on the few examples of the new task. Trained: W_down
(bottleneck, d_model), W_up (d_model, bottleneck) and their biases. At inference one adapter remains.

The paper's text and code were not open to us: of the alignment only that it is optimal transport, on weights or
activations, is known here, and from memory. Each layer is matched for itself, as the adapters' outputs have fixed axes.
"""

from collections.abc import Sequence

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from . import _kit as kit
from ._bottleneck import Bottleneck


class Recorded(Bottleneck):
    """An adapter that can keep what its hidden units give out."""

    def __init__(self, d: int, *, bottleneck: int):
        super().__init__(d, bottleneck=bottleneck)
        self.seen: list[Tensor] | None = None

    def after(self, x: Tensor, h: Tensor) -> Tensor:
        if self.seen is not None:
            z = torch.relu(h @ self.W_down.T + self.b_down)         # (..., bottleneck)
            self.seen.append(z.detach().flatten(0, -2))             # (tokens, bottleneck)
        return super().after(x, h)


def apply(model: nn.Module, *, bottleneck: int, name: str = "mera") -> nn.Module:
    """Freeze the model and put an adapter behind every feed-forward block."""
    kit.freeze(model)
    for block in kit.blocks(model, "mlp"):
        kit.attach(block.sites["mlp.down"], name, Recorded(block.dims["d_model"], bottleneck=bottleneck))
    return model


def features(adapter: Recorded, by: str) -> Tensor:
    """One row for each hidden unit: its weights, or what it gave out on the recorded tokens."""
    if by == "activations":
        if not adapter.seen:
            raise ValueError("nothing was recorded: set `seen` to [] and run the models on the same inputs first")
        return torch.cat(adapter.seen).T                            # (bottleneck, tokens)
    weights = (adapter.W_down, adapter.b_down[:, None], adapter.W_up.T)
    return torch.cat(weights, dim=1)                                # (bottleneck, 2 d_model + 1)


def transport(ours: Tensor, theirs: Tensor) -> Tensor:
    """For each of our units the index of theirs that it is matched with, at the least sum of squared distances."""
    cost = torch.cdist(ours, theirs).square()                       # (bottleneck, bottleneck)
    return torch.as_tensor(linear_sum_assignment(cost.detach().cpu().numpy())[1], device=ours.device)


@torch.no_grad()
def merge_adapters(model: nn.Module, others: Sequence[nn.Module], by: str = "weights", name: str = "mera") -> nn.Module:
    """Align the other models' adapters with this one's, and write the average of all into it."""
    for mine, *rest in zip(*(kit.attached(one, name) for one in (model, *others)), strict=True):
        adapters = [child for child in (mine, *rest) if isinstance(child, Recorded)]
        first = features(adapters[0], by)
        orders = [torch.arange(len(first), device=first.device)]
        orders += [transport(first, features(adapter, by)) for adapter in adapters[1:]]
        aligned = [
            (a.W_down[order], a.b_down[order], a.W_up[:, order], a.b_up)
            for a, order in zip(adapters, orders, strict=True)
        ]
        for parameter, values in zip(mine.parameters(), zip(*aligned, strict=True), strict=True):
            parameter.copy_(torch.stack(values).mean(dim=0))
    return model
