"""QLoRA: LoRA over a frozen 4-bit model (dettmers2023qlora#section-3).

    h = dequantised(W_NF4) x + (alpha / r) B A x

Trained: A (r, d_in) and B (d_out, r), through the dequantised weight. The matrices of all layers are held as
NF4 codes, one scale per block of 64 weights, the scales themselves as 8-bit floats in blocks of 256: 4 + 8/64 +
32/(64*256) = 4.127 bits per weight. At inference the codes and the pair stay (adding BA to the codes would mean
to quantise again). Differences: the scales are e4m3 floats here, a dynamic-exponent table in bitsandbytes; the
paper's paged optimiser is no part of the model.
"""

import torch
from torch import Tensor, nn

from . import _kit as kit
from . import lora
from ._recomputed import Recomputed, register

BLOCK, SCALES = 64, 256
FLOAT8, FLOAT8_MAX = torch.float8_e4m3fn, 448.0
TINY = torch.finfo(torch.float32).tiny      # a block of zeros has the scale zero


def normal_float() -> Tensor:
    """The 16 code points (dettmers2023qlora#section-3): quantiles of the normal, scaled to [-1, 1], with an exact zero.

    Seven negative and eight positive ones; the outermost probability avoids the infinite quantile.
    """
    edge = 1 - (1 / 30 + 1 / 32) / 2
    positive = torch.special.ndtri(torch.linspace(edge, 0.5, 9, dtype=torch.float64)[:-1])
    negative = -torch.special.ndtri(torch.linspace(edge, 0.5, 8, dtype=torch.float64)[:-1])
    points = torch.cat([positive, negative, torch.zeros(1, dtype=torch.float64)]).sort().values
    return points / points.max()


class NF4(Recomputed):
    """A parametrisation: the weight is kept as four small tensors and computed from them whenever it is read."""

    points: Tensor

    def __init__(self, weight: Tensor):
        super().__init__(weight)
        self.register_buffer("points", normal_float().to(weight), persistent=False)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Quantise: codes (two to a byte), 8-bit scales, 32-bit scales of the scales, and their mean."""
        blocks = _blocks(weight.flatten(), BLOCK)                                       # (n / 64, 64)
        scale = blocks.abs().amax(1)                                                    # (n / 64,)
        steps = blocks / scale.clamp(min=TINY)[:, None]
        codes = torch.bucketize(steps, (self.points[1:] + self.points[:-1]) / 2).flatten().byte()       # (n,)
        mean = scale.mean().float()
        groups = _blocks(scale - mean, SCALES)                                          # (n / 64 / 256, 256)
        second = groups.abs().amax(1).float()                                           # (n / 64 / 256,)
        eighths = groups / second.clamp(min=TINY)[:, None] * FLOAT8_MAX
        first = eighths.to(FLOAT8).view(torch.uint8).flatten()[: len(scale)]            # (n / 64,)
        return codes[::2] << 4 | codes[1::2], first, second, mean

    def forward(self, codes: Tensor, first: Tensor, second: Tensor, mean: Tensor) -> Tensor:
        """Dequantise."""
        outer = second.to(self.points).repeat_interleave(SCALES)[: len(first)]                          # (n / 64,)
        scale = first.view(FLOAT8).to(self.points) / FLOAT8_MAX * outer + mean                          # (n / 64,)
        steps = self.points[torch.stack([codes >> 4, codes & 15], 1).flatten().int()]                   # (n,)
        return (steps.view(-1, BLOCK) * scale[:, None]).flatten()[: self.shape.numel()].view(self.shape)


def _blocks(flat: Tensor, size: int) -> Tensor:
    return nn.functional.pad(flat, (0, -len(flat) % size)).view(-1, size)


def apply(
    model: nn.Module, *, r: int = 64, alpha: float = 16.0, dropout: float = 0.0,
    targets: tuple[str, ...] = ("attn.*", "xattn.*", "mlp.*"),
) -> nn.Module:
    """Freeze and quantise every matrix inside the layers, and put a low-rank pair beside the targeted ones."""
    kit.freeze(model)
    for weight in list(kit.weights(model)):
        inside = weight.role.startswith(("attn.", "xattn.", "mlp."))
        if inside and weight.kind in ("linear", "conv1d") and weight.name.endswith("weight"):
            host, value = model.get_submodule(weight.name.rpartition(".")[0]), weight.value
            register(host, NF4(value))
    return lora.apply(model, r=r, alpha=alpha, dropout=dropout, targets=targets, name="qlora")
