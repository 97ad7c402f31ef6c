"""AutoPEFT: automatic configuration search for parameter-efficient fine-tuning (zhou2024autopeft).

    max over configurations a of (score(a), -numbers(a)),    a = (serial width, parallel width, prefix length, layers)

A configuration puts a serial adapter behind, and a parallel one beside, the feed-forward block, and a prefix into the
self-attention, of some layers: the same sizes in each, 0 for none. The serial adapter stands where Pfeiffer's does: it
reads the residual sum, normed where a norm follows, and the norm is applied again to the sum with both adapters.
`build` makes the model of any configuration, `apply` that of the upper layers. `search` is multi-objective Bayesian
optimisation: a Gaussian process predicts the score of what was not tried, and the next to try is the one by which the
front of score and size is expected to grow most. As the size is known beforehand, that expectation has a closed form.
Trained, stored and served: the modules of the result.

The authors use a process with a sparsity prior (SAAS) and noisy hypervolume improvement, batches of 4, 200 trials, and
short trainings as score; this has one length scale, fitted, and one trial at a time. They count modules without biases.
Their prefixes come out of an MLP while training; here they are trained directly.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn.functional import linear

from . import _kit as kit
from ._attention import widen
from .pfeiffer_adapter import Placed
from .prefix_tuning import Prefix


@dataclass(frozen=True)
class Configuration:
    """One point of the search space."""

    serial: int
    parallel: int
    prefix_length: int
    layers: frozenset[int]

    def vector(self) -> list[float]:
        """Its coordinates for the surrogate: sizes on a log scale, a bit for each of the first 32 layers."""
        sizes = torch.tensor([self.serial, self.parallel, self.prefix_length]).add(1).log2().tolist()
        return [*sizes, *(float(layer in self.layers) for layer in range(32))]


class Parallel(Placed):
    """The adapter beside a feed-forward block: it reads what the block reads, and joins the residual sum behind it."""

    def __init__(self, d: int, width: int):
        super().__init__()
        self.W_down_p = nn.Parameter(torch.empty(width, d).uniform_(-(d**-0.5), d**-0.5))
        self.b_down_p = nn.Parameter(torch.zeros(width))
        self.W_up_p = nn.Parameter(torch.zeros(d, width))
        self.b_up_p = nn.Parameter(torch.zeros(d))
        self.x: Tensor | None = None

    def before(self, x: Tensor) -> Tensor:
        self.x = x
        return x

    def delta(self, _: Tensor) -> Tensor:
        assert self.x is not None
        z = torch.relu(linear(self.x, self.W_down_p, self.b_down_p))    # (..., d_model) -> (..., parallel)
        self.x = None
        return 4 * linear(z, self.W_up_p, self.b_up_p)                  # (..., parallel) -> (..., d_model)


class Serial(Placed):
    """The adapter behind a feed-forward block: it reads the residual sum, normed where a norm follows, and joins it."""

    parallel: Parallel | None       # not a submodule

    def __init__(self, d: int, width: int, parallel: Parallel | None):
        super().__init__()
        kit.share(self, parallel=parallel)
        self.W_down_s = nn.Parameter(0.02 * torch.randn(width, d))
        self.b_down_s = nn.Parameter(torch.zeros(width))
        self.W_up_s = nn.Parameter(0.02 * torch.randn(d, width))
        self.b_up_s = nn.Parameter(torch.zeros(d))

    def delta(self, z: Tensor) -> Tensor:
        low = torch.relu(linear(z, self.W_down_s, self.b_down_s))       # (..., d_model) -> (..., serial)
        up = linear(low, self.W_up_s, self.b_up_s)                      # (..., serial) -> (..., d_model)
        return up if self.parallel is None else up + self.parallel.delta(z)


def build(model: nn.Module, a: Configuration) -> nn.Module:
    """Freeze the model and give it the modules of a configuration."""
    kit.freeze(model)
    layers = {(layer.stack, layer.layer): layer.module for layer in kit.blocks(model, "layer")}
    for block in kit.blocks(model, "mlp"):
        if block.layer not in a.layers:
            continue
        d, up, down = block.dims["d_model"], block.sites["mlp.up"], block.sites["mlp.down"]
        layer = layers[block.stack, block.layer]
        beside = Parallel(d, a.parallel) if a.parallel else None
        hooks = kit.attach(up, "autopeft", beside) if beside else []
        last: Placed | None = beside
        if a.serial:
            last = Serial(d, a.serial, beside)
            hooks = kit.attach(down, "autopeft", last)
        if last:
            hooks.append(last.act(model, layer, down.path))
    for block in kit.blocks(model, "attention"):
        if a.prefix_length and block.name == "attn" and block.layer in a.layers:
            prefix = Prefix(
                block.dims["n_kv_heads"], block.dims["head_dim"], prefix_length=a.prefix_length, emitter=None, index=0
            )
            kit.attach(block.module, "autopeft", prefix).append(widen(model, block.module, prefix.keys_values))
    return model


def apply(
    model: nn.Module, *, serial: int = 24, parallel: int = 96, prefix_length: int = 6, dropped: int = 2
) -> nn.Module:
    """The configuration of these sizes in all but the lowest `dropped` layers."""
    layers = frozenset(block.layer for block in kit.blocks(model, "layer") if block.layer >= dropped)
    return build(model, Configuration(serial, parallel, prefix_length, layers))


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the model on recorded tokens; for the golden vectors."""
    logits: Tensor = model(input_ids=inputs["input_ids"]).logits
    return {"output": logits}


def numbers(model: nn.Module, a: Configuration) -> int:
    """How many numbers a configuration trains in this model."""
    total = 0
    for block in kit.blocks(model, "mlp"):
        if block.layer in a.layers:
            d = block.dims["d_model"]
            total += sum((2 * d + 1) * width + d for width in (a.serial, a.parallel) if width)
    for block in kit.blocks(model, "attention"):
        if block.name == "attn" and block.layer in a.layers:
            total += 2 * a.prefix_length * block.dims["d_kv"]
    return total


def predict(x: Tensor, y: Tensor, new: Tensor, noise: float = 1e-3) -> tuple[Tensor, Tensor]:
    """Mean and deviation of a Gaussian process at `new`, its length scale the likeliest of a few."""
    scale = y.std().clamp(min=1e-9)
    z = ((y - y.mean()) / scale)[:, None]
    best: tuple[float, Tensor, Tensor] | None = None
    for length in (0.5, 1.0, 2.0, 4.0, 8.0, 16.0):
        cover = torch.exp(-0.5 * torch.cdist(x, x) ** 2 / length**2) + noise * torch.eye(len(x)).to(x)
        factor = torch.linalg.cholesky(cover)
        fit = float((z.T @ torch.cholesky_solve(z, factor)).squeeze() + 2 * factor.diagonal().log().sum())
        if best is None or fit < best[0]:
            best = fit, factor, torch.exp(-0.5 * torch.cdist(new, x) ** 2 / length**2)
    assert best is not None
    _, factor, cross = best                                             # cross: (new, tried)
    mean = (cross @ torch.cholesky_solve(z, factor))[:, 0]
    left = torch.linalg.solve_triangular(factor, cross.T, upper=False)
    deviation = (1 - left.square().sum(0)).clamp(min=1e-12).sqrt()
    return mean * scale + y.mean(), deviation * scale


def growth(cost: Tensor, mean: Tensor, deviation: Tensor, tried: Tensor, scores: Tensor, most: float) -> Tensor:
    """By how much each candidate is expected to enlarge the area under the best score for every cost up to `most`.

    A candidate improves that curve from its own cost on; there its gain over the curve's level is an ordinary
    expected improvement of a normal variable.
    """
    order = tried.argsort()
    edges = torch.cat([tried.new_zeros(1), tried[order], tried.new_full((1,), most)])       # (steps + 1,)
    levels = torch.cat([scores.min()[None], scores[order].cummax(0).values])                # (steps,)
    widths = (edges[1:] - torch.maximum(edges[:-1], cost[:, None])).clamp(min=0)            # (candidates, steps)
    z = (mean[:, None] - levels) / deviation[:, None]
    unit = Normal(torch.zeros(()).to(z), torch.ones(()).to(z))
    gain: Tensor = deviation[:, None] * (z * unit.cdf(z) + unit.log_prob(z).exp())
    return (widths * gain).sum(1)


def search(
    score: Callable[[Configuration], float], numbers: Callable[[Configuration], int], space: Sequence[Configuration],
    *, budget: int, initial: int, steps: int, seed: int = 0,
) -> dict[Configuration, float]:
    """Try `initial` random configurations within the budget, then `steps` by expected growth. Returns all scores."""
    left = [a for a in space if numbers(a) <= budget]
    order = torch.randperm(len(left), generator=torch.Generator().manual_seed(seed)).tolist()
    tried = {left[i]: score(left[i]) for i in order[:initial]}
    for _ in range(steps):
        left = [a for a in left if a not in tried]
        x, new = (torch.tensor([a.vector() for a in some], dtype=torch.float64) for some in (tried, left))
        y = torch.tensor(list(tried.values()), dtype=torch.float64)
        old, costs = (torch.tensor([numbers(a) for a in some], dtype=torch.float64) for some in (tried, left))
        chosen = left[int(growth(costs, *predict(x, y, new), old, y, budget).argmax())]
        tried[chosen] = score(chosen)
    return tried


def front(tried: dict[Configuration, float], numbers: Callable[[Configuration], int]) -> list[Configuration]:
    """The configurations that no other beats in both score and size, small ones first."""
    best, found = -float("inf"), []
    for a in sorted(tried, key=lambda a: (numbers(a), -tried[a])):
        if tried[a] > best:
            best = tried[a]
            found.append(a)
    return found
