"""IR-QLoRA: QLoRA with calibrated codes and with averages of the input beside the factors (qin2024irqlora).

    h = W~ x + (alpha / r) (B z + beta_2 spread(z)),    z = A x + beta_1 pool(x),    W~ = NF4(W - tau) + tau

Trained: A (r, d_in), B (d_out, r), and the numbers beta_1 and beta_2. `pool` averages r equal parts of the input, and
`spread` repeats each of r numbers over an equal part of the output; neither has parameters. Before W is rounded, each
block of 64 weights is shifted by tau, near its median. Of 2 tries + 1 candidates, tau is the first for which the
sixteen codes have the highest entropy. The shifts are stored in 8 bits each, as the scales are. At inference everything
stays, as in QLoRA.

Scales and shifts have bitsandbytes' table of 256 values. A last block that is not full is filled up with zeros.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from . import _kit as kit
from . import qlora
from ._recomputed import register

BLOCK, GROUP, CHUNK = qlora.BLOCK, 256, 512     # CHUNK: blocks that are searched at a time
SIGMA = 1 / torch.special.ndtri(torch.tensor(0.9677083, dtype=torch.float64)).item()


def dynamic_map() -> Tensor:
    """Return bitsandbytes' 256 values from -1 to 1: seven powers of ten, each with twice as many values as the last."""
    half = [
        10.0 ** (i - 6) * (edges[:-1] + edges[1:]) / 2
        for i in range(7)
        for edges in [torch.linspace(0.1, 1, 2**i + 1, dtype=torch.float64)]
    ]
    positive = torch.cat(half)                                                          # (127,)
    return torch.cat([-positive, positive, torch.tensor([0.0, 1.0], dtype=torch.float64)]).sort().values


def nearest(x: Tensor, points: Tensor) -> Tensor:
    """Return the number of the nearest of the sorted points, for each entry of x."""
    return torch.bucketize(x, (points[1:] + points[:-1]) / 2)


def entropy(codes: Tensor) -> Tensor:
    """Return the entropy of the sixteen codes in each block (..., 64), in bits."""
    shares = torch.stack([(codes == value).sum(-1) for value in range(16)]) / BLOCK     # (16, ...)
    return torch.where(shares > 0, -shares * shares.log2(), 0.0).sum(0)


def choose(blocks: Tensor, points: Tensor, window: float, tries: int) -> Tensor:
    """Return the shift of each block (blocks, 64): the first candidate with the highest entropy of the codes."""
    middle = blocks.median(1).values
    reach = (blocks - middle[:, None]).abs().amax(1)                                    # (blocks,)
    factors = torch.linspace(-window * SIGMA, window * SIGMA, 2 * tries + 1, dtype=torch.float64).to(blocks)
    taus = factors[:, None] * reach + middle                                            # (candidates, blocks)
    shifted = blocks - taus[..., None]
    scale = shifted.abs().amax(-1, keepdim=True).clamp(min=qlora.TINY)
    best = entropy(nearest(shifted / scale, points).byte()).argmax(0)                        # (blocks,)
    tau: Tensor = taus.gather(0, best[None])[0]
    return tau


class Calibrated(qlora.NF4):
    """A parametrisation: the weight is stored as codes, scales of two levels, and shifts of two levels."""

    table: Tensor

    def __init__(self, weight: Tensor, *, window: float, tries: int):
        super().__init__(weight)
        self.window, self.tries = window, tries
        self.register_buffer("table", dynamic_map().to(weight), persistent=False)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        blocks, points = qlora._blocks(weight.flatten().float(), BLOCK), self.points.float()
        tau = torch.cat([choose(part, points, self.window, self.tries) for part in blocks.split(CHUNK)])
        shifted = blocks - tau[:, None]                                                 # (n / 64, 64)
        scale = shifted.abs().amax(1)                                                   # (n / 64,)
        codes = nearest(shifted / scale.clamp(min=qlora.TINY)[:, None], points).flatten().byte()
        mean = scale.mean()
        return codes[::2] << 4 | codes[1::2], *self.eighths(scale - mean), mean, *self.eighths(tau)

    def eighths(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Round numbers to 8 bits, with a scale for each group of 256."""
        groups = qlora._blocks(x, GROUP)
        outer = groups.abs().amax(1)
        numbers = nearest(groups / outer.clamp(min=qlora.TINY)[:, None], self.table.float())
        return numbers.byte().flatten()[: len(x)].clone(), outer

    def whole(self, numbers: Tensor, outer: Tensor) -> Tensor:
        """Return the numbers that `eighths` has rounded."""
        rounded: Tensor = self.table[numbers.int()]
        return rounded * outer.to(self.table).repeat_interleave(GROUP)[: len(numbers)]

    def forward(  # type: ignore[override]
        self, codes: Tensor, first: Tensor, second: Tensor, mean: Tensor, tau: Tensor, tau_outer: Tensor
    ) -> Tensor:
        scale, shift = self.whole(first, second) + mean, self.whole(tau, tau_outer)     # (n / 64,)
        steps = self.points[torch.stack([codes >> 4, codes & 15], 1).flatten().int()]   # (n,)
        blocks = steps.view(-1, BLOCK) * scale[:, None] + shift[:, None]
        weight: Tensor = blocks.flatten()[: self.shape.numel()].view(self.shape)
        return weight


class Elastic(kit.Child):
    """The correction beside one weight of shape (d_out, d_in)."""

    def __init__(self, d_in: int, d_out: int, *, r: int, alpha: float, dropout: float):
        super().__init__()
        self.A, self.B = nn.Parameter(torch.empty(r, d_in)), nn.Parameter(torch.zeros(d_out, r))
        self.beta_1, self.beta_2 = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
        self.scale, self.dropout = alpha / r, nn.Dropout(dropout)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        pooled = x.unflatten(-1, (len(self.A), -1)).mean(-1)                            # (..., d_in) -> (..., r)
        z: Tensor = self.dropout(x) @ self.A.T + self.beta_1 * pooled                   # (..., r)
        high: Tensor = (z @ self.B.T).unflatten(-1, (len(self.A), -1)) + (self.beta_2 * z)[..., None]
        return y + self.scale * high.flatten(-2)                                        # (..., d_out)


@torch.no_grad()
def apply(
    model: nn.Module, *, r: int = 64, alpha: float = 16.0, dropout: float = 0.0, window: float = 0.1, tries: int = 100,
    targets: tuple[str, ...] = ("attn.*", "xattn.*", "mlp.*"),
) -> nn.Module:
    """Freeze and quantise every matrix inside the layers, and put an elastic pair beside the targeted ones."""
    kit.freeze(model)
    wanted = kit.sites(model, targets)
    for site in wanted:
        if math.gcd(site.d_in, site.d_out) % r:
            raise ValueError(f"r = {r} must divide the {site.d_in} inputs and the {site.d_out} outputs of {site.path}")
    hosts = {id(site.module): site.module for site in kit.sites(model, ("attn.*", "xattn.*", "mlp.*"))}
    for host in hosts.values():
        register(host, Calibrated(host.weight, window=window, tries=tries))
    for site in wanted:
        kit.attach(site, "ir_qlora", Elastic(site.d_in, site.d_out, r=r, alpha=alpha, dropout=dropout))
    return model
