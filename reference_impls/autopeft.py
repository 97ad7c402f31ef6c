"""AutoPEFT: automatic configuration search for parameter-efficient fine-tuning (zhou2024autopeft).

    maximise (score(a), -size(a)) over configurations    a = (serial width, parallel width, prefix length, layers)

A configuration adds three modules to each of its layers: a serial adapter after the feed-forward block, a parallel
adapter beside it, and a prefix in the self-attention. Their sizes are the same in all these layers; 0 means none. The
serial adapter has the location of a Pfeiffer adapter: its input is the residual sum, after the norm if one follows. In
that case the same norm is applied again to the sum with both adapters' outputs. `build` builds the model of any
configuration, `apply` that of the upper layers. Trained, stored and kept at inference: the modules of the result.

`search` is Bayesian optimisation with two goals. A Gaussian process predicts the scores of untried configurations. The
next trial is the configuration that is expected to enlarge the area under the front of score and size the most. Sizes
are known without a trial, so this expectation has a closed form.

Differences to the authors' code: it uses a Gaussian process with a sparsity prior (SAAS), noisy expected hypervolume
improvement, batches of 4 and 200 trials, with short trainings as scores. Here the process has one length scale for all
coordinates, and trials run one at a time. The authors count the modules without biases, and an MLP emits their prefixes
during training; here the prefixes are trained directly.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn.functional import linear

from . import _kit as kit
from ._attention import widen
from .pfeiffer_adapter import Placed
from .prefix_tuning import Prefix

LENGTHS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""The length scales of the Gaussian process. `predict` takes the one with the largest marginal likelihood."""


@dataclass(frozen=True)
class Configuration:
    """One point of the search space."""

    serial: int
    parallel: int
    prefix_length: int
    layers: frozenset[int]

    def vector(self) -> list[float]:
        """Return the coordinates for the Gaussian process: logarithms of the sizes, and a bit for each layer."""
        sizes = torch.tensor([self.serial, self.parallel, self.prefix_length]).add(1).log2().tolist()
        return [*sizes, *(float(layer in self.layers) for layer in range(32))]      # layers above 31 have no bit


class Parallel(Placed):
    """The adapter beside a feed-forward block. Its input is the block's, its output joins the residual sum."""

    def __init__(self, d: int, width: int):
        super().__init__()
        self.W_down_p = nn.Parameter(torch.empty(width, d).uniform_(-(d**-0.5), d**-0.5))
        self.b_down_p = nn.Parameter(torch.zeros(width))
        self.W_up_p = nn.Parameter(torch.zeros(d, width))
        self.b_up_p = nn.Parameter(torch.zeros(d))
        self.x: Tensor | None = None        # the block's input, from `before` to `delta`

    def before(self, x: Tensor) -> Tensor:
        self.x = x
        return x

    def delta(self, y: Tensor) -> Tensor:
        assert self.x is not None
        z = torch.relu(linear(self.x, self.W_down_p, self.b_down_p))    # (..., d_model) -> (..., parallel)
        self.x = None
        change: Tensor = 4 * linear(z, self.W_up_p, self.b_up_p)        # (..., parallel) -> (..., d_model)
        return change.view_as(y)                                        # a block may see all tokens in one row


class Serial(Placed):
    """The adapter after a feed-forward block. It also adds the output of the parallel adapter, if there is one."""

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
    """Freeze the model and add the modules of a configuration."""
    kit.freeze(model)
    layers = {(layer.stack, layer.layer): layer.module for layer in kit.blocks(model, "layer")}
    for block in kit.blocks(model, "mlp"):
        if block.layer not in a.layers:
            continue
        d, up, down = block.dims["d_model"], block.sites["mlp.up"], block.sites["mlp.down"]
        parallel = serial = None
        if a.parallel:
            parallel = Parallel(d, a.parallel)
            kit.attach(up, "autopeft", parallel)
        if a.serial:
            serial = Serial(d, a.serial, parallel)
            kit.attach(down, "autopeft", serial)
        if outer := serial or parallel:         # one module adds the outputs of both
            outer.handles.append(outer.act(model, layers[block.stack, block.layer], down.path))
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
    """Freeze the model and add modules of these sizes to all but the lowest `dropped` layers."""
    layers = frozenset(block.layer for block in kit.blocks(model, "layer") if block.layer >= dropped)
    return build(model, Configuration(serial, parallel, prefix_length, layers))


def numbers(model: nn.Module, a: Configuration) -> int:
    """Return how many parameters a configuration trains in this model."""
    total = 0
    for block in kit.blocks(model, "mlp"):
        if block.layer in a.layers:
            d = block.dims["d_model"]
            total += sum((2 * d + 1) * width + d for width in (a.serial, a.parallel) if width)
    for block in kit.blocks(model, "attention"):
        if block.name == "attn" and block.layer in a.layers:
            total += 2 * a.prefix_length * block.dims["d_kv"]
    return total


def predict(x: Tensor, y: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation at `new` of a Gaussian process fitted to scores y (n,) at x (n, coordinates).

    The kernel is squared-exponential. The noise variance is fixed at 0.001 of the scores' variance.
    """
    settings = {"alpha": 1e-3, "optimizer": None, "normalize_y": True}
    fitted = [GaussianProcessRegressor(RBF(length), **settings).fit(x.numpy(), y.numpy()) for length in LENGTHS]
    best = max(fitted, key=lambda process: process.log_marginal_likelihood_value_)
    mean, deviation = best.predict(new.numpy(), return_std=True)
    return torch.from_numpy(mean), torch.from_numpy(deviation)


def growth(cost: Tensor, mean: Tensor, deviation: Tensor, tried: Tensor, scores: Tensor, most: float) -> Tensor:
    """Return how much each candidate is expected to enlarge the area under the front, for sizes up to `most`.

    The front is a step function: the best tried score of at most this size. A candidate can raise every step from its
    own size on. Its expected gain over the level of a step is the expected improvement of a normal variable.
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
    """Try `initial` random configurations within the budget, then `steps` by expected growth. Return all scores."""
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
    """Return the configurations that no other beats in both score and size, smallest first."""
    best, found = -float("inf"), []
    for a in sorted(tried, key=lambda a: (numbers(a), -tried[a])):
        if tried[a] > best:
            best = tried[a]
            found.append(a)
    return found


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the model on recorded tokens; for the golden vectors."""
    logits: Tensor = model(input_ids=inputs["input_ids"]).logits
    return {"output": logits}
