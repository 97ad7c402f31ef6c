"""GenKnowSub: subtract a general LoRA from each expert, then route as Arrow does (bagherifard2025genknowsub).

    A_i = A'_i - mean_g A_g,    B_i = B'_i - mean_g B_g,    h = W_0 x + (alpha / r) sum_i s_i B_i A_i x

Given: LoRAs of tasks, A'_i and B'_i, and general ones, A_g and B_g, trained on plain text. `combine` reads both. Frozen
beside every targeted weight: A (n_experts, r, d_in) and B (n_experts, d_out, r). Computed, not trained: p (n_experts,
d_in), Arrow's directions of the new experts, from which the weights s_i of a token follow. At inference everything
stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from . import _kit as kit
from . import _merging, arrow


class Subtracted(arrow.Experts):
    """Experts beside one weight, from which `n_general` LoRAs are subtracted."""

    n_general: int


def apply(
    model: nn.Module, *, n_experts: int = 10, n_general: int = 1, r: int = 4, alpha: float = 16.0, top_k: int = 3,
    temperature: float = 1.0, targets: tuple[str, ...] = ("attn.*", "xattn.*"),
) -> nn.Module:
    """Freeze the model and put experts beside every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        child = Subtracted(
            site.d_in, site.d_out, n_experts=n_experts, r=r, alpha=alpha, top_k=top_k, temperature=temperature
        )
        kit.attach(site, "genknowsub", child)
        child.n_general = n_general
    return model


@torch.no_grad()
def combine(model: nn.Module, inputs: Sequence[_merging.Input]) -> nn.Module:
    """Subtract the average of the general LoRAs, the last inputs, from those of the tasks; factor by factor."""
    for _, child in kit.at_sites(model, "genknowsub", Subtracted):
        if len(inputs) != len(child.A) + child.n_general:
            raise ValueError(f"found {len(inputs)} LoRAs; expected {len(child.A)} of tasks, {child.n_general} others")
        for stack, name in zip((child.A, child.B), _merging.pair(child, "genknowsub"), strict=True):
            fill(stack, name, inputs[: len(stack)], inputs[len(stack) :])
    return finish(model)


def fill(stack: Tensor, name: str, tasks: Sequence[_merging.Input], general: Sequence[_merging.Input]) -> None:
    """Write one factor of each task's LoRA into a stack, without the mean of the general ones."""
    mean = torch.zeros_like(stack[0])
    for given in general:
        mean.add_(given[name], alpha=1 / len(general))
    for row, given in zip(stack, tasks, strict=True):
        row.copy_(given[name]).sub_(mean)


def finish(model: nn.Module) -> nn.Module:
    """Compute the directions of the present experts."""
    for _, child in kit.at_sites(model, "genknowsub", arrow.Experts):
        child.p.copy_(child.directions())
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Subtract and route with recorded adapters; for the golden vectors. Directions are up to their signs."""
    [(site, child)] = kit.at_sites(model, "genknowsub", arrow.Experts)
    combine(model, _merging.adapters(child, "genknowsub", inputs))
    output: Tensor = site.module(inputs["x"])
    shares = child.shares(inputs["x"])
    return {
        "output": output, "mixed_factors": output, "A": child.A, "B": child.B, "directions": child.p.abs(),
        "shares": shares,
    }


def unpack(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Take over stored experts and compute their directions."""
    model.load_state_dict(dict(state), strict=False)
    finish(model)
