"""S4: the model that a search through parameter-efficient design spaces ends at (chen2023s4).

    four groups of layers in a spindle (small, large, large, small); the same budget for every layer; all groups tuned
    G1: adapter, LoRA    G2: adapter, prefix    G3: adapter, prefix, biases    G4: prefix, biases, LoRA

A `Design` has four parts: the groups, the budget of a layer in each group, the groups that are tuned, and the
strategies of each group. `build` builds the model of any design, and `apply` that of S4. `refine` is the search. It
fixes one part after another: for each choice it scores random designs, and it keeps the choice with the best mean.

The strategies of a layer share its budget equally. A layer's biases have a fixed count, so they are trained only if
they fit. Trained, stored and kept at inference: adapters (W_down, W_up and their biases), low-rank pairs (A, B) at
queries and values, prefixes (P_k, P_v), and biases of the model itself.

This is a reconstruction. The published code is another method (UniPELT's gated prefix, adapter and LoRA in all layers),
and we have not read the paper's text. The strategies are those for T5-base, recalled. These parts are ours: the spindle
of 1 : 2 : 2 : 1, the equal shares of strategies, how modules start, and the choices and samples of `refine`.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from . import _kit as kit
from ._attention import widen
from ._bottleneck import Bottleneck
from .prefix_tuning import Prefix

STRATEGIES = ("AL", "AP", "APB", "PBL")
"""The strategies of S4's groups: A for adapter, L for LoRA, P for prefix, B for biases."""


@dataclass(frozen=True)
class Design:
    """One point of the design space. Each part except `ends` has one item for each of the four groups."""

    ends: tuple[int, ...]                                           # the first layer after each group except the last
    weights: tuple[float, ...] = (1, 1, 1, 1)                       # the budget of a layer, relative to other layers
    tuned: tuple[bool, ...] = (True, True, True, True)
    strategies: tuple[str, ...] = STRATEGIES

    def group(self, layer: int) -> int:
        return sum(end <= layer for end in self.ends)

    def weight(self, layer: int) -> float:
        return self.weights[self.group(layer)] * self.tuned[self.group(layer)]

    def part(self, strategy: str, layer: int, layers: Sequence[int], budget: float) -> float:
        """Return how many parameters one strategy may use in a layer if all `layers` may use `budget`."""
        chosen = self.strategies[self.group(layer)]
        if strategy not in chosen or not self.weight(layer):
            return 0
        return budget * self.weight(layer) / sum(map(self.weight, layers)) / len(chosen)


class LowRank(kit.Child):
    """The low-rank correction of queries (A_q, B_q) or values (A_v, B_v), without a scale."""

    def __init__(self, which: str, d_in: int, d_out: int, r: int):
        super().__init__()
        self.register_parameter(f"A_{which}", nn.Parameter(d_in**-0.5 * torch.randn(r, d_in)))
        self.register_parameter(f"B_{which}", nn.Parameter(torch.zeros(d_out, r)))

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        A, B = self.parameters()
        return y + x @ A.T @ B.T                                    # (..., d_in) -> (..., d_out)


def build(model: nn.Module, design: Design, budget: float) -> nn.Module:
    """Freeze the model and add each group's strategies. `budget` is a share of the backbone's parameters."""
    kit.freeze(model)
    layers = [block.layer for block in kit.blocks(model, "layer")]
    most = budget * kit.inventory(model).backbone.parameters

    def part(strategy: str, layer: int) -> float:
        return design.part(strategy, layer, layers, most)

    for block in kit.blocks(model, "mlp"):
        d = block.dims["d_model"]
        width = int((part("A", block.layer) - d) / (2 * d + 1))     # two matrices and two biases
        if width > 0:
            kit.attach(block.sites["mlp.down"], "s4", Bottleneck(d, bottleneck=width))
    for block in kit.blocks(model, "attention"):
        if block.name != "attn":
            continue
        q, v, dims = block.sites["attn.q"], block.sites["attn.v"], block.dims
        if r := int(part("L", block.layer) / (q.d_in + q.d_out + v.d_in + v.d_out)):
            kit.attach(q, "s4", LowRank("q", q.d_in, q.d_out, r))
            kit.attach(v, "s4", LowRank("v", v.d_in, v.d_out, r))
        if length := int(part("P", block.layer) / (2 * dims["d_kv"])):
            prefix = Prefix(dims["n_kv_heads"], dims["head_dim"], prefix_length=length, emitter=None, index=0)
            kit.attach(block.module, "s4", prefix).append(widen(model, block.module, prefix.keys_values))
    for layer, values in biases(model):
        if sum(value.numel() for value in values) <= part("B", layer):
            for value in values:
                value.requires_grad_(True)
    return model


def biases(model: nn.Module) -> list[tuple[int, list[nn.Parameter]]]:
    """Return the pretrained biases of every layer, with the layer's number in its stack."""
    found: dict[tuple[str, int], list[nn.Parameter]] = {}
    for weight in kit.weights(model):
        if weight.pretrained and weight.layer is not None and weight.name.endswith(".bias"):
            found.setdefault((weight.stack, weight.layer), []).append(weight.value)
    return [(layer, values) for (_, layer), values in found.items()]


def apply(model: nn.Module, *, budget: float = 0.005, end_1: int, end_2: int, end_3: int) -> nn.Module:
    """Freeze the model and build S4 with these ends of the first three groups."""
    return build(model, Design((end_1, end_2, end_3)), budget)


def ends(layers: int, *sizes: int) -> tuple[int, ...]:
    """Return the ends of groups with these relative sizes, at least one layer each."""
    edges = [round(layers * sum(sizes[: i + 1]) / sum(sizes)) for i in range(len(sizes) - 1)]
    return tuple(min(max(edge, i + 1), layers - len(sizes) + 1 + i) for i, edge in enumerate(edges))


def choices(layers: int) -> dict[str, list[Any]]:
    """Return the stages of the search in their order, each with its choices."""
    sizes = ((1, 2, 3, 4), (1, 1, 1, 1), (4, 3, 2, 1), (1, 2, 2, 1), (2, 1, 1, 2))     # the fourth is the spindle
    tuned = (0b1111, 0b0001, 0b1000, 0b0011, 0b1100, 0b1001, 0b0110)                    # the lowest bit is group 1
    strategies = ["".join(s for i, s in enumerate("APBL") if bits >> i & 1) for bits in range(1, 16)]
    return {
        "ends": [ends(layers, *each) for each in sizes],
        "weights": [(1, 1, 1, 1), (1, 2, 3, 4), (4, 3, 2, 1)],
        "tuned": [tuple(bool(bits >> g & 1) for g in range(4)) for bits in tuned],
        **{f"group {g}": strategies for g in (1, 2, 3, 4)},
    }


def refine(
    score: Callable[[Design], float], layers: int, *, samples: int = 4, seed: int = 0
) -> tuple[Design, list[tuple[str, object, float]]]:
    """Search from stage to stage. Return the final design, and (stage, choice, mean score) of every comparison."""
    draw, log = random.Random(seed), list[tuple[str, object, float]]()
    stages, fixed = choices(layers), dict[str, Any]()

    def sample(**chosen: Any) -> Design:
        parts = {stage: draw.choice(options) for stage, options in stages.items()} | fixed | chosen
        strategies = tuple(parts.pop(f"group {g}") for g in (1, 2, 3, 4))
        return Design(**parts, strategies=strategies)

    for stage, options in stages.items():
        means = [sum(score(sample(**{stage: option})) for _ in range(samples)) / samples for option in options]
        log += [(stage, option, mean) for option, mean in zip(options, means, strict=True)]
        fixed[stage] = options[means.index(max(means))]
    return sample(), log
