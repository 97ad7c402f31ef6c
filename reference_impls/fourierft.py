"""FourierFT: fine-tuning with discrete Fourier transform (gao2024fourierft).

    h = W_0 x + scaling Re(ifft2(S)) x,    S is zero but for n_frequency entries, the spectrum c

Trained: the spectrum (n_frequency) of every targeted weight. Where its numbers stand in S is drawn once for all
weights of a shape, so a seed stores it. The spectrum starts normal, as in the authors' code, so the start is near the
pretrained model and not on it. At inference the change is added to W_0. peft draws from a generator of its own.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from . import _kit as kit


class Positions(kit.Child):
    """Which entries of a matrix (d_out, d_in) are not zero, counted row by row. One for each role."""

    positions: Tensor

    def __init__(self, positions: Tensor):
        super().__init__()
        self.register_buffer("positions", positions)


class FourierFT(kit.Child):
    """The change of one weight of shape (d_out, d_in)."""

    shared: Positions   # not a submodule

    def __init__(self, site: kit.Site, shared: Positions, spectrum: Tensor, scaling: float):
        super().__init__()
        kit.share(self, shared=shared)
        self.spectrum = nn.Parameter(spectrum)
        self.shape, self.scaling = (site.d_out, site.d_in), scaling

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        return y + x @ self.delta().T                               # (..., d_in) -> (..., d_out)

    def delta(self) -> Tensor:
        flat = self.spectrum.new_zeros(self.shape[0] * self.shape[1])
        dense = flat.index_copy(0, self.shared.positions, self.spectrum).view(self.shape)   # (n,) -> (d_out, d_in)
        return self.scaling * self.transformed(dense)

    def transformed(self, dense: Tensor) -> Tensor:
        real: Tensor = torch.fft.ifft2(dense).real
        return real


def draw(model: nn.Module, name: str, targets: Sequence[str], n: int) -> list[tuple[kit.Site, Positions]]:
    """Draw n positions for each shape, attach them to the model for each role, and return them with their sites."""
    drawn: dict[tuple[int, int], Tensor] = {}
    found: list[tuple[kit.Site, Positions]] = []
    for role, sites in kit.by_role(model, targets).items():
        shape = sites[0].d_out, sites[0].d_in
        if n > shape[0] * shape[1]:
            raise ValueError(f"{n} positions do not fit into {shape}")
        if shape not in drawn:
            drawn[shape] = torch.randperm(shape[0] * shape[1])[:n].clone()
        positions = Positions(drawn[shape])
        kit.attach(model, f"{name}.{role.replace('.', '_')}", positions)
        found += [(site, positions) for site in sites]
    return found


def apply(
    model: nn.Module, *, n_frequency: int = 1000, scaling: float = 300.0,
    targets: tuple[str, ...] = ("attn.q", "attn.v", "xattn.q", "xattn.v"),
) -> nn.Module:
    """Freeze the model, draw the positions, and put a spectrum beside every targeted weight."""
    kit.freeze(model)
    for site, positions in draw(model, "fourierft", targets, n_frequency):
        kit.attach(site, "fourierft", FourierFT(site, positions, torch.randn(n_frequency), scaling))
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the changes to the weights."""
    return kit.fold(model, "fourierft")
