"""C3A: circular convolution adaptation (chen2025c3a).

    h = W_0 x + C x / d_in,    C made of circulant blocks:  block (i, j) at (k, l) is w_ij[(l - k) mod b]

Trained: the kernel w (d_out / b, d_in / b, b), b = block_size, of every targeted weight. A product with a circulant
block is a circular correlation, done by fast Fourier transforms; the kernel starts Xavier-uniform, so the start is
near the pretrained model and not on it. At inference C / d_in is added to W_0. The form is that of peft, which is
the authors' own.
"""

import torch
from torch import Tensor, nn

from . import _kit as kit


class C3A(kit.Child):
    """The correction beside one weight of shape (d_out, d_in)."""

    def __init__(self, d_in: int, d_out: int, *, block_size: int):
        super().__init__()
        if d_in % block_size or d_out % block_size:
            raise ValueError(f"block_size = {block_size} must divide {d_in} and {d_out}")
        bound = (6 / (d_in + d_out)) ** 0.5
        kernel = torch.empty(d_out // block_size, d_in // block_size, block_size).uniform_(-bound, bound)
        self.kernel = nn.Parameter(kernel)
        self.d_in, self.b = d_in, block_size

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        blocks = torch.fft.rfft(x.unflatten(-1, (-1, self.b)))                  # (..., d_in) -> (..., n, b // 2 + 1)
        mixed = torch.einsum("...nf,mnf->...mf", blocks, torch.fft.rfft(self.kernel).conj())
        change: Tensor = torch.fft.irfft(mixed, n=self.b).flatten(-2)           # (..., m, f) -> (..., d_out)
        return y + change / self.d_in

    def delta(self) -> Tensor:
        shift = torch.arange(self.b, device=self.kernel.device)
        blocks = self.kernel[:, :, (shift - shift[:, None]) % self.b]           # (m, n, b, b)
        return blocks.transpose(1, 2).flatten(2).flatten(0, 1) / self.d_in      # (d_out, d_in)


def apply(
    model: nn.Module, *, block_size: int = 256,
    targets: tuple[str, ...] = ("attn.q", "attn.v", "xattn.q", "xattn.v"),
) -> nn.Module:
    """Freeze the model and put circulant blocks beside every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        kit.attach(site, "c3a", C3A(site.d_in, site.d_out, block_size=block_size))
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the blocks to the weights."""
    return kit.fold(model, "c3a")
