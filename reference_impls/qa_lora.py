"""QA-LoRA: quantization-aware low-rank adaptation (xu2024qalora).

    h = W~ x + (alpha / r) B A pool(x),    W~ = scale (code - zero) for each `group` of inputs, pool the mean of each

Trained: A (r, d_in / group) and B (d_out, r), through the quantised weight: four-bit codes, and for each group of a
row a scale and a zero point. The correction is constant within a group, so `merge` moves the zero points and leaves
codes and scales: nothing is left beside the model, which stays quantised. Here quantisation is by minimum and
maximum where the paper has GPTQ. peft multiplies the means by the number of groups.
"""

from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from . import _kit as kit
from ._recomputed import Recomputed, register, remove

LEVELS = 15     # the largest of the four-bit codes


@dataclass
class Grid:
    """A quantised weight: scale * (code - zero)."""

    packed: Tensor      # (d_out, groups * group / 2), two codes in a byte
    scale: Tensor       # (d_out, groups, 1)
    zero: Tensor        # (d_out, groups, 1), with fractions
    group: int
    d_in: int

    @property
    def codes(self) -> Tensor:
        """Whole numbers from 0 to 15, (d_out, groups, group)."""
        every = torch.stack([self.packed >> 4, self.packed & 15], -1).flatten(1)
        codes: Tensor = every[:, : self.scale.shape[1] * self.group].unflatten(1, (-1, self.group))
        return codes

    def weight(self) -> Tensor:
        return (self.scale * (self.codes - self.zero)).flatten(1)[:, : self.d_in]       # (d_out, d_in)


def quantise(weight: Tensor, group: int) -> Grid:
    """Nearest codes between the extremes of each group, zero included; (d_out, d_in), the last group may be shorter."""
    d_in = weight.shape[1]
    columns = torch.arange(-(-d_in // group) * group).clamp(max=d_in - 1)               # repeats the last one
    blocks = weight[:, columns.to(weight.device)].unflatten(1, (-1, group))             # (d_out, groups, group)
    low, high = blocks.amin(-1, keepdim=True).clamp(max=0), blocks.amax(-1, keepdim=True).clamp(min=0)
    scale = (high - low).clamp(min=torch.finfo(weight.dtype).tiny) / LEVELS
    zero = (-low / scale).round()
    codes = nn.functional.pad((blocks / scale + zero).round().clamp(0, LEVELS).flatten(1), (0, columns.numel() % 2))
    pairs = codes.to(torch.uint8).unflatten(1, (-1, 2))
    return Grid(pairs[..., 0] << 4 | pairs[..., 1], scale, zero, group, d_in)


class Held(Recomputed):
    """A parametrisation: the weight is kept as a grid."""

    def __init__(self, weight: Tensor, *, group: int, transposed: bool):
        super().__init__(weight)
        self.group, self.transposed = group, transposed

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        grid = quantise(weight.T if self.transposed else weight, self.group)
        return grid.packed, grid.scale, grid.zero

    def grid(self, packed: Tensor, scale: Tensor, zero: Tensor) -> Grid:
        return Grid(packed, scale, zero, self.group, self.shape[0 if self.transposed else 1])

    def forward(self, packed: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        weight = self.grid(packed, scale, zero).weight()            # (d_out, d_in)
        return weight.T.contiguous() if self.transposed else weight


def grid_of(site: kit.Site) -> Grid:
    """A site's part of what its module holds; views, so that writing to it changes the model."""
    held = cast(Any, site.module).parametrizations.weight
    rows = (getattr(held, f"original{i}").detach()[site.start : site.stop] for i in range(3))
    grid: Grid = held[0].grid(*rows)
    return grid


class QALoRA(kit.Child):
    """The correction beside one weight of shape (d_out, d_in)."""

    def __init__(self, grid: Grid, *, r: int, alpha: float, dropout: float):
        super().__init__()
        d_out, groups, _ = grid.scale.shape
        self.group = grid.group
        self.A = nn.Parameter(torch.empty(r, groups))
        self.B = nn.Parameter(torch.zeros(d_out, r))
        nn.init.xavier_uniform_(self.A)
        self.grid, self.scale, self.dropout = grid, alpha / r, nn.Dropout(dropout)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        pooled = x.unflatten(-1, (-1, self.group)).mean(-1)         # (..., d_in) -> (..., groups)
        low: Tensor = self.dropout(pooled) @ self.A.T               # (..., groups) -> (..., r)
        return y + self.scale * (low @ self.B.T)                    # (..., r) -> (..., d_out)

    def merged(self) -> Grid:
        """The same codes and scales with other zero points."""
        shift = (self.B @ self.A)[..., None] * (self.scale / self.group) / self.grid.scale      # (d_out, groups, 1)
        return replace(self.grid, zero=self.grid.zero - shift)


@torch.no_grad()
def apply(
    model: nn.Module, *, r: int = 64, alpha: float = 16.0, dropout: float = 0.0, group: int = 32,
    targets: tuple[str, ...] = ("attn.*", "xattn.*", "mlp.*"),
) -> nn.Module:
    """Freeze and quantise every matrix inside the layers, and put a correction beside the targeted ones."""
    kit.freeze(model)
    wanted = {(site.path, site.role) for site in kit.sites(model, targets)}
    for site in kit.sites(model, ("attn.*", "xattn.*", "mlp.*")):
        if not parametrize.is_parametrized(site.module):
            register(site.module, Held(site.module.weight, group=group, transposed=site.transposed))
        if (site.path, site.role) in wanted:
            if site.d_in % group:
                raise ValueError(f"group = {group} must divide the {site.d_in} inputs of {site.path}")
            kit.attach(site, "qa_lora", QALoRA(grid_of(site), r=r, alpha=alpha, dropout=dropout))
    return model


@torch.no_grad()
def merge(model: nn.Module) -> nn.Module:
    """Move the zero points, and leave a plain model with numbers that are as quantised as they were."""
    for _, child in kit.at_sites(model, "qa_lora", QALoRA):
        child.grid.zero.copy_(child.merged().zero)
    kit.detach(model, "qa_lora")
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            remove(module)
    return model
