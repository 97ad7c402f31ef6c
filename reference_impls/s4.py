"""S4: the model that a walk through parameter-efficient design spaces ends at (chen2023s4).

    layers in four groups, few at both ends (spindle); every layer the same number of trained parameters; all tuned;
    G1: adapter, LoRA    G2: adapter, prefix    G3: adapter, prefix, biases    G4: prefix, biases, LoRA

A `Design` fixes four things: grouping, allocation, tuned groups, strategies of each group. `build` makes the model of
any design within a budget, `apply` that of S4, and `refine` is the walk: for one thing after the other it scores random
designs under every choice that is left, and keeps the choice of best mean. Within a layer its strategies share the
budget equally (biases cost what the model has, and are left out where that is more). Trained, stored and served:
adapters W_down, W_up and biases, A and B beside queries and values, prefixes P_k and P_v; and the model's own biases.

The code that the authors published is another method (the gated union of prefix, adapter and LoRA in all layers). The
strategies above are those reported for T5-base, and recalled, as is the exact form of the spindle, here 1 : 2 : 2 : 1.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from . import _kit as kit
from ._attention import widen
from ._bottleneck import Bottleneck
from .prefix_tuning import Prefix

STRATEGIES = ("AL", "AP", "APB", "PBL")
"""Adapter, LoRA, Prefix, Biases: what each group of S4 gets."""


@dataclass(frozen=True)
class Design:
    """One point of the design space. `ends`: the first layer beyond each group; `weights`: of a layer in each group."""

    ends: tuple[int, ...]
    weights: tuple[float, ...] = (1, 1, 1, 1)
    tuned: tuple[bool, ...] = (True, True, True, True)
    strategies: tuple[str, ...] = STRATEGIES

    def group(self, layer: int) -> int:
        """The group of a layer."""
        return next((g for g, end in enumerate(self.ends) if layer < end), len(self.ends))

    def part(self, layer: int, budget: float, layers: Sequence[int]) -> float:
        """What one strategy of this layer may cost where all `layers` together may cost `budget`."""
        g = self.group(layer)
        if not self.tuned[g]:
            return 0
        if all(self.tuned) and len(set(self.weights)) == 1:
            return budget / len(layers) / len(self.strategies[g])
        total = sum(self.weights[self.group(i)] for i in layers if self.tuned[self.group(i)])
        return budget * self.weights[g] / total / len(self.strategies[g])


class LowRank(kit.Child):
    """The correction to queries (A_q, B_q) or values (A_v, B_v), unscaled."""

    def __init__(self, which: str, d_in: int, d_out: int, r: int):
        super().__init__()
        self.register_parameter(f"A_{which}", nn.Parameter(d_in**-0.5 * torch.randn(r, d_in)))
        self.register_parameter(f"B_{which}", nn.Parameter(torch.zeros(d_out, r)))

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        A, B = self.parameters()
        return y + x @ A.T @ B.T                                    # (..., d_in) -> (..., d_out)


def build(model: nn.Module, design: Design, budget: float) -> nn.Module:
    """Freeze the model and give every group its strategies, within the share `budget` of the backbone."""
    kit.freeze(model)
    layers = [block.layer for block in kit.blocks(model, "layer")]
    most = budget * kit.inventory(model).backbone.parameters

    def of(layer: int, strategy: str) -> float:
        return design.part(layer, most, layers) if strategy in design.strategies[design.group(layer)] else 0

    for block in kit.blocks(model, "mlp"):
        d = block.dims["d_model"]
        if width := max(0, int((of(block.layer, "A") - d) / (2 * d + 1))):
            kit.attach(block.sites["mlp.down"], "s4", Bottleneck(d, bottleneck=width))
    for block in kit.blocks(model, "attention"):
        if block.name != "attn":
            continue
        q, v, dims = block.sites["attn.q"], block.sites["attn.v"], block.dims
        if r := int(of(block.layer, "L") / (q.d_in + q.d_out + v.d_in + v.d_out)):
            kit.attach(q, "s4", LowRank("q", q.d_in, q.d_out, r))
            kit.attach(v, "s4", LowRank("v", v.d_in, v.d_out, r))
        if length := int(of(block.layer, "P") / (2 * dims["d_kv"])):
            prefix = Prefix(dims["n_kv_heads"], dims["head_dim"], prefix_length=length, emitter=None, index=0)
            kit.attach(block.module, "s4", prefix).append(widen(model, block.module, prefix.keys_values))
    biases: dict[tuple[str, int], list[nn.Parameter]] = {}
    for weight in kit.weights(model):
        if weight.pretrained and weight.layer is not None and weight.name.endswith(".bias"):
            biases.setdefault((weight.stack, weight.layer), []).append(weight.value)
    for (_, layer), values in biases.items():
        if sum(value.numel() for value in values) <= of(layer, "B"):
            for value in values:
                value.requires_grad_(True)
    return model


def apply(model: nn.Module, *, budget: float = 0.005, end_1: int, end_2: int, end_3: int) -> nn.Module:
    """The design of S4 with these ends of the first three groups."""
    return build(model, Design((end_1, end_2, end_3)), budget)


def spread(layers: int, *parts: int) -> tuple[int, ...]:
    """The ends of all groups but the last, of sizes in these proportions, one layer each at least."""
    edges = [round(layers * sum(parts[: i + 1]) / sum(parts)) for i in range(len(parts) - 1)]
    return tuple(min(max(edge, i + 1), layers - len(parts) + 1 + i) for i, edge in enumerate(edges))


def choices(layers: int) -> Iterator[tuple[str, list[tuple[object, ...]]]]:
    """The walk's stages: a field of `Design`, and what it may be."""
    patterns = ((1, 2, 3, 4), (1, 1, 1, 1), (4, 3, 2, 1), (1, 2, 2, 1), (2, 1, 1, 2))   # the fourth is the spindle
    yield "ends", [spread(layers, *pattern) for pattern in patterns]
    yield "weights", [(1, 1, 1, 1), (1, 2, 3, 4), (4, 3, 2, 1)]
    yield "tuned", [tuple(bool(bits >> g & 1) for g in range(4)) for bits in (15, 1, 8, 3, 12, 9, 6)]


def refine(
    score: Callable[[Design], float], layers: int, *, samples: int = 4, seed: int = 0
) -> tuple[Design, list[tuple[str, object, float]]]:
    """The walk. Returns the design that it ends at, and (stage, choice, mean score) of everything that was compared."""
    draw, log = random.Random(seed), list[tuple[str, object, float]]()
    kinds = ["".join(s for s, bit in zip("APBL", (8, 4, 2, 1), strict=True) if bits & bit) for bits in range(1, 16)]
    fixed: dict[str, object] = {}
    open_ = dict(choices(layers))
    known: list[str | None] = [None] * 4

    def sample(**chosen: object) -> Design:
        fields = {name: draw.choice(options) for name, options in open_.items()} | fixed | chosen
        strategies = tuple(kind or draw.choice(kinds) for kind in known)
        return replace(Design((1, 2, 3), strategies=strategies), **fields)      # type: ignore[arg-type]

    def mean(designs: list[Design]) -> float:
        return sum(map(score, designs)) / len(designs)

    def best(stage: str, found: Sequence[tuple[object, float]]) -> object:
        log.extend((stage, choice, value) for choice, value in found)
        return max(found, key=lambda pair: pair[1])[0]

    for name, options in choices(layers):
        found = [(option, mean([sample(**{name: option}) for _ in range(samples)])) for option in options]
        fixed[name] = best(name, found)
    for g in range(4):
        scored = []
        for kind in kinds:
            known[g] = kind
            scored.append((kind, mean([sample() for _ in range(samples)])))
        known[g] = str(best(f"group {g + 1}", scored))
    return sample(), log
