"""QA-LoRA: quantization-aware low-rank adaptation (xu2024qalora).

    h = W~ x + (alpha / r) B A pool(x),    W~ = scale (code - zero) in each `group` of inputs,  pool: group means

Trained: A (r, d_in / group) and B (d_out, r), through the quantised weight. That is stored as four-bit codes, with a
scale and a zero point for each group of a row. The input is averaged over each group, so the correction to the weight
is constant within a group. Therefore `merge` only moves the zero points. Nothing remains beside the model, and it stays
quantised.

The quantisation uses the minimum and maximum of each group; the paper uses GPTQ. peft multiplies the means by the
number of groups. `_recomputed` keeps the dequantised weights out of memory between the passes.
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
        """Return the codes, integers from 0 to 15, (d_out, groups, group)."""
        every = torch.stack([self.packed >> 4, self.packed & 15], -1).flatten(1)
        codes: Tensor = every[:, : self.scale.shape[1] * self.group].unflatten(1, (-1, self.group))
        return codes

    def weight(self) -> Tensor:
        return (self.scale * (self.codes - self.zero)).flatten(1)[:, : self.d_in]       # (d_out, d_in)


def quantise(weight: Tensor, group: int) -> Grid:
    """Round a weight (d_out, d_in) to 16 levels for each group, from its minimum to its maximum.

    The levels always include zero. The last group may be shorter.
    """
    d_in = weight.shape[1]
    columns = torch.arange(-(-d_in // group) * group).clamp(max=d_in - 1)               # pads with the last column
    blocks = weight[:, columns.to(weight.device)].unflatten(1, (-1, group))             # (d_out, groups, group)
    low, high = blocks.amin(-1, keepdim=True).clamp(max=0), blocks.amax(-1, keepdim=True).clamp(min=0)
    scale = (high - low).clamp(min=torch.finfo(weight.dtype).tiny) / LEVELS
    zero = (-low / scale).round()
    codes = nn.functional.pad((blocks / scale + zero).round().clamp(0, LEVELS).flatten(1), (0, columns.numel() % 2))
    pairs = codes.to(torch.uint8).unflatten(1, (-1, 2))
    return Grid(pairs[..., 0] << 4 | pairs[..., 1], scale, zero, group, d_in)


class Quantised(Recomputed):
    """A parametrisation: the weight is stored as a grid."""

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
    """Return a site's part of its module's grid. The tensors are views: writing to them changes the model."""
    stored = cast(Any, site.module).parametrizations.weight
    rows = (getattr(stored, f"original{i}").detach()[site.start : site.stop] for i in range(3))
    grid: Grid = stored[0].grid(*rows)
    return grid


class QALoRA(kit.Child):
    """The correction of one quantised weight of shape (d_out, d_in)."""

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
        """Return a grid with the same codes and scales and with moved zero points."""
        shift = (self.B @ self.A)[..., None] * (self.scale / self.group) / self.grid.scale      # (d_out, groups, 1)
        return replace(self.grid, zero=self.grid.zero - shift)


@torch.no_grad()
def apply(
    model: nn.Module, *, r: int = 64, alpha: float = 16.0, dropout: float = 0.0, group: int = 32,
    targets: tuple[str, ...] = ("attn.*", "xattn.*", "mlp.*"),
) -> nn.Module:
    """Freeze and quantise every linear module inside the layers, and add a correction to the targeted ones."""
    kit.freeze(model)
    wanted = {(site.path, site.role) for site in kit.sites(model, targets)}
    for site in kit.sites(model, ("attn.*", "xattn.*", "mlp.*")):
        if not parametrize.is_parametrized(site.module):
            register(site.module, Quantised(site.module.weight, group=group, transposed=site.transposed))
        if (site.path, site.role) in wanted:
            if site.d_in % group:
                raise ValueError(f"group = {group} must divide the {site.d_in} inputs of {site.path}")
            kit.attach(site, "qa_lora", QALoRA(grid_of(site), r=r, alpha=alpha, dropout=dropout))
    return model


@torch.no_grad()
def merge(model: nn.Module) -> nn.Module:
    """Move the zero points, and leave a plain model whose weights have the same codes and scales."""
    for _, child in kit.at_sites(model, "qa_lora", QALoRA):
        child.grid.zero.copy_(child.merged().zero)
    kit.detach(model, "qa_lora")
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            remove(module)
    return model
