"""NOAH: neural prompt search (zhang2022noah#abstract; code_noah#model/supernet_vision_transformer_timm.py).

    X_i <- [H_i; P_i],    [q; k; v] = W_0 x + B A x,    h <- h + W_up f(W_down h + b_down) + b_up

with H_i the states of class token and patches before layer i, x the input of its attention, h the output of its
feed-forward block, and f(z) = z sigmoid(1.702 z).

Trained, and kept at inference, in each layer: a prompt P (prompt_length, d_model), a LoRA A (r, d_model) and B
(3 d_model, r), and an adapter W_down (bottleneck, d_model), W_up (d_model, bottleneck) with biases. All matrices start
from normal distributions, as in the authors' code, so the model does not start as it was. A layer without a prompt
keeps the prompt of the layer before. Outputs of the prompt are removed at the end.

The search gives every layer its own sizes, 0 for none. `build` takes any sizes, `apply` gives all layers equal
ones. `search` is the evolutionary search. In the authors' code a score is the accuracy of a supernet with the first
rows of each module.
"""

import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from peftonomy import UsageError

from . import _kit as kit
from ._image import require_one_width

LONGEST = 100
"""The length of the supernet's prompts, from which the bound of their start follows."""


class Sizes(NamedTuple):
    """One configuration: the sizes of prompts, LoRAs and adapters, layer by layer."""

    prompts: tuple[int, ...]
    ranks: tuple[int, ...]
    widths: tuple[int, ...]


class Prompt(kit.Child):
    """The prompt in the input of one layer, in place of one with `before` vectors."""

    def __init__(self, d: int, length: int, *, before: int, dropout: float):
        super().__init__()
        bound = (6 / ((LONGEST + 1) * d)) ** 0.5                    # Xavier's, of (1, LONGEST, d)
        self.P = nn.Parameter(torch.empty(length, d).uniform_(-bound, bound))
        self.before, self.dropout = before, nn.Dropout(dropout)

    def enter(self, _: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        h = args[0]
        p = self.dropout(self.P.to(h.dtype).expand(len(h), -1, -1))
        return torch.cat([h[:, : h.shape[1] - self.before], p], dim=1), *args[1:]       # (batch, n + length, d)


class Leave(kit.Child):
    """Removes the outputs of the last layer's prompt."""

    def __init__(self, length: int):
        super().__init__()
        self.length = length

    def leave(self, _: nn.Module, args: Any, output: Any) -> Any:
        h = output.last_hidden_state
        output.last_hidden_state = h[:, : h.shape[1] - self.length]                     # (batch, n, d)
        return output


class JointLoRA(kit.Child):
    """One LoRA for queries, keys and values. The attention's input passes it before they are computed."""

    def __init__(self, d: int, r: int, *, dropout: float):
        super().__init__()
        self.A = nn.Parameter(0.02 * torch.randn(r, d))
        self.B = nn.Parameter(0.02 * torch.randn(3 * d, r))
        self.dropout = nn.Dropout(dropout)
        self.parts: list[Tensor | None] = [None] * 3

    def compute(self, _: nn.Module, args: tuple[Tensor, ...]) -> None:
        self.parts = list(linear(linear(self.dropout(args[0]), self.A), self.B).chunk(3, dim=-1))   # each (batch, n, d)

    def added(self, which: int, y: Tensor) -> Tensor:
        part, self.parts[which] = self.parts[which], None           # keeps neither memory nor graph
        assert part is not None
        return y + part

    def query(self, _: Tensor, y: Tensor) -> Tensor:
        return self.added(0, y)

    def key(self, _: Tensor, y: Tensor) -> Tensor:
        return self.added(1, y)

    def value(self, _: Tensor, y: Tensor) -> Tensor:
        return self.added(2, y)


class Adapter(kit.Child):
    """The adapter behind one feed-forward block."""

    def __init__(self, d: int, width: int, *, dropout: float):
        super().__init__()
        self.W_down = nn.Parameter(0.02 * torch.randn(width, d))
        self.b_down = nn.Parameter(torch.zeros(width))
        self.W_up = nn.Parameter(0.02 * torch.randn(d, width))
        self.b_up = nn.Parameter(torch.zeros(d))
        self.dropout = nn.Dropout(dropout)

    def after(self, _: Tensor, h: Tensor) -> Tensor:
        z = linear(h, self.W_down, self.b_down)                     # (..., d) -> (..., width)
        z = self.dropout(z * torch.sigmoid(1.702 * z))
        return h + linear(z, self.W_up, self.b_up)                  # (..., width) -> (..., d)


def build(model: nn.Module, sizes: Sizes, *, dropout: float = 0.1) -> nn.Module:
    """Freeze the model and add the modules of a configuration. Raises UsageError for a model that reads text."""
    require_one_width(model)
    layers, d = kit.blocks(model, "layer"), kit.inventory(model).dims["d_model"]
    if any(len(one) != len(layers) for one in sizes):
        raise UsageError(f"found {' and '.join(str(len(one)) for one in sizes)} sizes; expected {len(layers)} of each")
    kit.freeze(model)
    before = 0
    for layer, length in zip(layers, sizes.prompts, strict=True):
        if length:
            prompt = Prompt(d, length, before=before, dropout=dropout)
            kit.attach(layer.module, "noah", prompt).append(layer.module.register_forward_pre_hook(prompt.enter))
            before = length
    if before:
        base, last = kit.base(model), Leave(before)
        kit.attach(model, "noah", last).append(base.register_forward_hook(last.leave))
    for block in kit.blocks(model, "attention"):
        if r := sizes.ranks[block.layer]:
            lora = JointLoRA(d, r, dropout=dropout)
            hooks = kit.attach(block.module, "noah", lora)
            hooks.append(block.module.register_forward_pre_hook(lora.compute))
            for role, add in {"attn.q": lora.query, "attn.k": lora.key, "attn.v": lora.value}.items():
                hooks.append(kit.on_output(block.sites[role], add))
    for block in kit.blocks(model, "mlp"):
        if width := sizes.widths[block.layer]:
            kit.attach(block.sites["mlp.down"], "noah", Adapter(d, width, dropout=dropout))
    return model


def apply(
    model: nn.Module, *, prompt_length: int = 5, r: int = 5, bottleneck: int = 5, dropout: float = 0.1
) -> nn.Module:
    """Freeze the model and add modules of these sizes to every layer."""
    n = len(kit.blocks(model, "layer"))
    return build(model, Sizes((prompt_length,) * n, (r,) * n, (bottleneck,) * n), dropout=dropout)


def numbers(sizes: Sizes, d: int) -> int:
    """Return how many parameters a configuration trains in a model of width d."""
    adapters = sum(2 * d * width + width + d for width in sizes.widths if width)
    return d * (sum(sizes.prompts) + 4 * sum(sizes.ranks)) + adapters


def search(
    score: Callable[[Sizes], float], size: Callable[[Sizes], int], *, choices: Sequence[int], depths: Sequence[int],
    layers: int, limit: int, rounds: int = 20, population: int = 50, parents: int = 10, changed: float = 0.2,
    deeper: float = 0.4, seed: int = 0,
) -> Sizes:
    """Return the configuration with the best score of those that were tried, none of them larger than the limit.

    Each round tries half a population of mutations and half of crossovers of the best `parents`.
    """
    rng = random.Random(seed)
    tried: dict[Sizes, float] = {}

    def drawn(start: tuple[int, ...], depth: int) -> tuple[int, ...]:
        kept = start[:depth]
        return kept + tuple(rng.choice(choices) for _ in range(depth - len(kept))) + (0,) * (layers - depth)

    def mutated(one: tuple[int, ...]) -> tuple[int, ...]:
        start = one[: one.index(0)] if 0 in one else one
        if rng.random() >= changed or rng.random() >= deeper:
            return one
        return drawn(start, rng.choice(depths))

    def attempt(made: Callable[[], Sizes], wanted: int) -> None:
        for _ in range(10 * wanted):
            sizes = made()
            if wanted and sizes not in tried and size(sizes) <= limit:
                tried[sizes] = score(sizes)
                wanted -= 1

    def best() -> list[Sizes]:
        return sorted(tried, key=tried.__getitem__, reverse=True)[:parents]

    def mutation(top: list[Sizes]) -> Sizes:
        return Sizes(*map(mutated, rng.choice(top)))

    def crossover(top: list[Sizes]) -> Sizes:
        return Sizes(*map(rng.choice, zip(rng.choice(top), rng.choice(top), strict=True)))

    attempt(lambda: Sizes(*(drawn((), rng.choice(depths)) for _ in range(3))), population)
    for _ in range(rounds):
        top = best()
        attempt(partial(mutation, top), population // 2)
        attempt(partial(crossover, top), population // 2)
    return best()[0]


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Run the model on recorded images; for the golden vectors."""
    states: Tensor = model(pixel_values=inputs["x"]).last_hidden_state
    return states
