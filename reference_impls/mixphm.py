"""MixPHM: a mixture of hypercomplex adapters (jiang2023mixphm; code_mixphm#src/vl_t5/mixphm/phm_moe.py:PHMAdapterMoE).

    h <- h + W_up,k^T gelu(W_down^T h + b_down) + c_k,    W = sum over i of  A_i kron (s_i t_i)

Behind every feed-forward block. k is drawn anew for each batch and layer while training. Afterwards s, t and c of the
up-projection are the means of their copies (`finish`; outside training the means are used before, too). Trained: A
(n, n, n), which the whole model shares; in each layer s_down (n, d_model / n, phm_rank), t_down (n, phm_rank,
bottleneck / n) and b_down, and `n_experts` of S, T and c, which start alike. Kept at inference: one adapter.

`redundancy` and `relevance` are the two terms that the authors add to the loss.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, normalize, one_hot, softplus

from peftonomy import UsageError

from . import _kit as kit

MEANS = {"s_up": "S", "t_up": "T", "b_up": "c"}


class Shared(kit.Child):
    """The small matrices of all adapters."""

    def __init__(self, n: int):
        super().__init__()
        self.A = nn.Parameter(0.01 * torch.randn(n, n, n))


def factor(*shape: int) -> Tensor:
    """A thin factor whose matrices start Xavier-uniform with a gain of sqrt(2)."""
    made = torch.empty(shape)
    for matrix in made:
        nn.init.xavier_uniform_(matrix, gain=2**0.5)
    return made


class Mixture(kit.Child):
    """The adapter of one layer, with several copies of its up-projection."""

    shared: Shared      # not a submodule
    S: nn.ParameterList
    T: nn.ParameterList
    c: nn.ParameterList

    def __init__(
        self, d_model: int, shared: Shared, *, bottleneck: int, n: int, phm_rank: int, n_experts: int, dropout: float
    ):
        super().__init__()
        if d_model % n or bottleneck % n:
            raise UsageError(f"n = {n} must divide both widths, {d_model} and {bottleneck}")
        kit.share(self, shared=shared)
        self.s_down = nn.Parameter(factor(n, d_model // n, phm_rank))
        self.t_down = nn.Parameter(factor(n, phm_rank, bottleneck // n))
        self.b_down = nn.Parameter(torch.zeros(bottleneck))
        s, t, c = factor(n, bottleneck // n, phm_rank), factor(n, phm_rank, d_model // n), torch.zeros(d_model)
        for mean, first in zip(MEANS, (s, t, c), strict=True):
            self.register_module(MEANS[mean], nn.ParameterList(first.clone() for _ in range(n_experts)))
            self.register_parameter(mean, nn.Parameter(first.clone(), requires_grad=False))
        self.dropout = nn.Dropout(dropout)

    def copies(self, name: str) -> Tensor:
        return torch.stack([*getattr(self, name)])                      # (n_experts, ...)

    def up(self) -> list[Tensor]:
        """s, t and c of this pass: drawn while training, else the means."""
        if not hasattr(self, "S"):
            return [getattr(self, mean) for mean in MEANS]
        copies = [self.copies(name) for name in MEANS.values()]
        if not self.training:
            return [c.mean(dim=0) for c in copies]
        n = len(copies[0])
        choice = one_hot(torch.randint(n, ()), n)                       # a sum, so that all get a gradient, if zero
        return [torch.tensordot(choice.to(c), c, dims=1) for c in copies]

    def weight(self, s: Tensor, t: Tensor) -> Tensor:
        """Return the matrix (d_in, d_out) that A, s and t make."""
        small, large = self.shared.A, s @ t                             # (n, n, n), (n, d_in / n, d_out / n)
        blocks: Tensor = small.flatten(1).T @ large.flatten(1)          # (n n, d_in d_out / n n)
        return blocks.view(*small.shape[1:], *large.shape[1:]).transpose(1, 2).flatten(2).flatten(0, 1)

    def change(self, h: Tensor) -> Tensor:
        s, t, c = self.up()
        z = self.narrowed(h)                                            # (..., bottleneck)
        added: Tensor = z @ self.weight(s, t) + c                       # (..., d_model)
        return added

    def narrowed(self, h: Tensor) -> Tensor:
        z = gelu(h @ self.weight(self.s_down, self.t_down) + self.b_down, approximate="tanh")
        dropped: Tensor = self.dropout(z)
        return dropped

    def after(self, _: Tensor, h: Tensor) -> Tensor:
        return h + self.change(h)


def apply(
    model: nn.Module, *, bottleneck: int = 64, n: int = 4, phm_rank: int = 8, n_experts: int = 4,
    dropout: float = 0.5, name: str = "mixphm",
) -> nn.Module:  # fmt: skip
    """Freeze the model and put a mixture of adapters behind every feed-forward block."""
    kit.freeze(model)
    shared = Shared(n)
    kit.attach(model, name, shared)
    for block in kit.blocks(model, "mlp"):
        mixture = Mixture(
            block.dims["d_model"], shared,
            bottleneck=bottleneck, n=n, phm_rank=phm_rank, n_experts=n_experts, dropout=dropout,
        )  # fmt: skip
        kit.attach(block.sites["mlp.down"], name, mixture)
    return model


def redundancy(change: Tensor, h: Tensor, mask: Tensor, strength: float = 3.9e-3) -> Tensor:
    """How far the features of an adapter's change repeat those of its input.

    change, h: (batch, positions, d_model). mask: (batch, positions), 1 at the tokens, which come first.
    """
    seen = mask.bool()
    a, b = normalize(change[seen], dim=1), normalize(h[seen], dim=1)    # (tokens, d_model)
    c = a.T @ b
    off = c.square().sum() - c.diagonal().square().sum()
    return strength * off / len(change)


def relevance(change: Tensor, state: Tensor, mask: Tensor) -> Tensor:
    """Minus a bound on what an adapter's change tells about the last states of its own text.

    state: (batch, d_model), the mean over the positions of the stack's last states. The bound is that of Jensen and
    Shannon.
    """
    tokens, texts = mask.bool().nonzero()[:, 0], torch.arange(len(mask), device=mask.device)
    own = (tokens[:, None] == texts).to(change)                         # (tokens, batch)
    scores = change[mask.bool()] @ state.T
    here = (math.log(2) - softplus(-scores * own)).sum() / len(tokens)
    there = scores * (1 - own)
    return (softplus(-there) + there - math.log(2)).sum() / (len(tokens) * (len(texts) - 1)) - here


@torch.no_grad()
def finish(model: nn.Module, name: str = "mixphm") -> nn.Module:
    """Average the copies and drop them."""
    for child in kit.attached(model, name):
        if isinstance(child, Mixture):
            for mean, copies in MEANS.items():
                getattr(child, mean).copy_(child.copies(copies).mean(dim=0))
            for copies in MEANS.values():
                delattr(child, copies)
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the method alone on recorded inputs; for the golden vectors."""
    mask, change = inputs["mask"], inputs["change"]
    torch.manual_seed(int(inputs["seed"]))
    return {
        "output": kit.blocks(model, "mlp")[0].sites["mlp.down"].module(inputs["x"]),
        "redundancy": redundancy(change, inputs["h"], mask),
        "relevance": relevance(change, inputs["state"], mask),
    }
