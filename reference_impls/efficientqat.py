"""EfficientQAT: efficient quantization-aware training, its phase E2E-QP (chen2025efficientqat).

    h = W~ x,    W~ = s (code - zero) in each `group` of neighbouring inputs

Trained: s, the step size of every group. Each matrix inside the layers is stored as codes of `bits` bits, with a step
size and a zero point of as many bits for each group of a row. Codes and zero points are frozen. At inference the
trained step sizes replace the first ones, so nothing remains beside the quantised model.

Codes, zero points and step sizes start from the minimum and maximum of each group. In the authors' code this is the
start of the phase before, Block-AP, which trains them and the weights layer by layer. Codes are packed into 32-bit
integers as there, but over the whole matrix instead of each column.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from . import _kit as kit
from ._recomputed import Recomputed, remove

LEAST, MOST = 1e-4, 1e4     # bounds of a step size at the start


def quantise(weight: Tensor, bits: int, group: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the codes (rows, columns), and the zero points and steps (rows, groups), of a matrix (rows, columns)."""
    blocks = weight.unflatten(1, (-1, group))                                   # (rows, groups, group)
    low, high = blocks.amin(-1, keepdim=True), blocks.amax(-1, keepdim=True)
    s = ((high - low) / (2**bits - 1)).clamp(LEAST, MOST)                       # (rows, groups, 1)
    zero = (-low / s).clamp(-MOST, MOST).round().clamp(0, 2**bits - 1)
    codes = ((blocks / s).round() + zero).clamp(0, 2**bits - 1)
    return codes.flatten(1), zero.squeeze(-1), s.squeeze(-1)


def to_words(codes: Tensor, bits: int) -> Tensor:
    """Pack codes into 32-bit integers, as many as fit."""
    each = 32 // bits
    padded = nn.functional.pad(codes.flatten().long(), (0, -codes.numel() % each)).view(-1, each)
    return (padded << _shifts(bits, codes.device)).sum(1).to(torch.int32)       # (numel / each,)


def from_words(packed: Tensor, bits: int, numel: int) -> Tensor:
    """Return the first `numel` packed codes as integers of 8 bits."""
    codes = packed[:, None] >> _shifts(bits, packed.device) & (2**bits - 1)     # (numel / each, each)
    first: Tensor = codes.to(torch.int8).flatten()[:numel]
    return first


def _shifts(bits: int, device: torch.device) -> Tensor:
    return bits * torch.arange(32 // bits, dtype=torch.int32, device=device)


class Steps(kit.Child):
    """The step sizes of one matrix (d_out, d_in), in the layout of the module's weight.

    They are (d_out, groups), and (groups, d_out) in a Conv1D.
    """

    def __init__(self, s: Tensor):
        super().__init__()
        self.s = nn.Parameter(s.contiguous())


class Quantised(Recomputed):
    """A parametrisation: the weight is stored as packed codes and zero points, with trained steps.

    Autograd saves the weight, because the steps have a gradient.
    """

    steps: Steps        # not a submodule

    def __init__(self, steps: Steps, weight: Tensor, *, bits: int, group: int, transposed: bool):
        super().__init__(weight)
        kit.share(self, steps=steps)
        self.bits, self.group, self.inputs = bits, group, 0 if transposed else 1

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        codes, zero, _ = quantise(weight if self.inputs else weight.T, self.bits, self.group)
        parts = (codes, zero) if self.inputs else (codes.T, zero.T)
        return to_words(parts[0], self.bits), to_words(parts[1], self.bits)

    def forward(self, codes: Tensor, zero: Tensor) -> Tensor:
        s = self.steps.s.unsqueeze(self.inputs + 1)                             # (d_out, groups, 1)
        q = from_words(codes, self.bits, self.shape.numel()).view(self.shape).unflatten(self.inputs, (-1, self.group))
        z = from_words(zero, self.bits, s.numel()).view(s.shape)
        weight: Tensor = ((q - z) * s).view(self.shape)                         # (d_out, d_in)
        return weight


@torch.no_grad()
def apply(model: nn.Module, *, bits: int = 4, group: int = 64) -> nn.Module:
    """Freeze and quantise every linear module inside the layers, and train the step sizes."""
    kit.freeze(model)
    for site in kit.sites(model, ("attn.*", "xattn.*", "mlp.*")):
        if parametrize.is_parametrized(site.module):
            continue
        if site.d_in % group:
            raise ValueError(f"group = {group} must divide the {site.d_in} inputs of {site.path}")
        weight = site.module.weight
        s = quantise(weight.T if site.transposed else weight, bits, group)[2]
        steps = Steps(s.T if site.transposed else s)
        kit.attach(site.module, "efficientqat.weight", steps)
        quantised = Quantised(steps, weight, bits=bits, group=group, transposed=site.transposed)
        parametrize.register_parametrization(site.module, "weight", quantised, unsafe=True)
    return model


@torch.no_grad()
def merge(model: nn.Module) -> nn.Module:
    """Leave a plain model with the dequantised weights."""
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            remove(module)
    kit.detach(model, "efficientqat")
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Run one quantised module on a recorded input; for the golden vectors."""
    [site] = kit.sites(model, ("mlp.up",))
    return cast(Tensor, site.module(inputs["x"]))
