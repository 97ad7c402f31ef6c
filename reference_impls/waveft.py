"""WaveFT: wavelet fine-tuning (bilican2025waveft; code_waveft).

    h = W_0 x + scaling haar(C) x,    C is zero but for n_frequency entries, the spectrum c

Trained: the spectrum (n_frequency) of every targeted weight, which starts at zero. Where its numbers stand in C is
drawn once for all weights of a shape, so a seed stores it. haar is the inverse of one level of the Haar transform: it
makes a block of two by two entries of one entry from each quarter of C. At inference the change is added to W_0.
peft has further wavelets; an odd side is rounded up before the transform and cut after it, as there.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from . import _kit as kit
from . import fourierft


class WaveFT(fourierft.FourierFT):
    """The change of one weight of shape (d_out, d_in)."""

    def transformed(self, dense: Tensor) -> Tensor:
        rows, columns = self.shape
        even = pad(dense, (0, columns % 2, 0, rows % 2))
        return haar(even)[:rows, :columns]


def haar(c: Tensor) -> Tensor:
    """One level of the inverse Haar transform, (rows, columns) -> (rows, columns), both even; it keeps the norm."""
    (mean, down), (across, both) = (half.chunk(2, 0) for half in c.chunk(2, 1))         # quarters
    top = torch.stack([mean + across + down + both, mean + across - down - both], -1)   # (rows / 2, columns / 2, 2)
    bottom = torch.stack([mean - across + down - both, mean - across - down + both], -1)
    return torch.stack([top, bottom], 1).flatten(2).flatten(0, 1) / 2                   # (rows, columns)


def apply(
    model: nn.Module, *, n_frequency: int = 2592, scaling: float = 25.0,
    targets: tuple[str, ...] = ("attn.*", "xattn.*"),
) -> nn.Module:
    """Freeze the model, draw the positions, and put a spectrum beside every targeted weight."""
    kit.freeze(model)
    for site, positions in fourierft.draw(model, "waveft", targets, n_frequency):
        kit.attach(site, "waveft", WaveFT(site, positions, torch.zeros(n_frequency), scaling))
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the changes to the weights."""
    return kit.fold(model, "waveft")
