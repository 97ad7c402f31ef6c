"""ZipLoRA: two LoRAs, merged with a learned weight for each input of a module (shah2023ziplora; code_ziplora).

    h = W_0 x + B_1 A_1 (m_1 * x) + B_2 A_2 (m_2 * x)

Given, beside every targeted weight, frozen: A1, A2 (r, d_in) and B1, B2 (d_out, r), the factors of a LoRA of a subject
and of one of a style. `combine` copies them. Trained: m1 and m2 (d_in), which scale the columns of the two changes. A
training loop keeps the merged model near each LoRA on the LoRA's own data, and adds a multiple of `penalty(model)`,
which keeps the two from using the same inputs. At inference both changes are added to W_0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from . import _kit as kit
from . import _merging


class Zip(kit.Child):
    """Both adapters beside one weight of shape (d_out, d_in), and the weights of their columns."""

    site: kit.Site

    def __init__(self, d_in: int, d_out: int, *, r: int):
        super().__init__()
        self.m1, self.m2 = nn.Parameter(torch.ones(d_in)), nn.Parameter(torch.ones(d_in))
        self.A1, self.A2 = (nn.Parameter(torch.zeros(r, d_in), requires_grad=False) for _ in range(2))
        self.B1, self.B2 = (nn.Parameter(torch.zeros(d_out, r), requires_grad=False) for _ in range(2))

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        first: Tensor = (x * self.m1) @ self.A1.T @ self.B1.T           # (..., d_in) -> (..., r) -> (..., d_out)
        second: Tensor = (x * self.m2) @ self.A2.T @ self.B2.T
        return y + (first + second)

    def delta(self) -> Tensor:
        return (self.B1 @ self.A1) * self.m1 + (self.B2 @ self.A2) * self.m2            # (d_out, d_in)


def apply(model: nn.Module, *, r: int = 64, targets: tuple[str, ...] = ("attn.*", "xattn.*")) -> nn.Module:
    """Freeze the model and put places for two adapters beside every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        kit.attach(site, "ziplora", Zip(site.d_in, site.d_out, r=r))
    return model


@torch.no_grad()
def combine(model: nn.Module, inputs: Sequence[_merging.Input]) -> nn.Module:
    """Copy the factors of two trained LoRAs, which have the same rank and targets, and alpha = r."""
    assert len(inputs) == 2, f"found {len(inputs)} inputs, expected 2"
    for _, child in kit.at_sites(model, "ziplora", Zip):
        first, second = _merging.pair(child, "ziplora")
        for a, b, given in zip((child.A1, child.A2), (child.B1, child.B2), inputs, strict=True):
            a.copy_(given[first])
            b.copy_(given[second])
    return model


def penalty(model: nn.Module) -> Tensor:
    """Return how much both adapters use the same inputs, summed over the modules; a training loop adds 0.01 of it."""
    parts = [(child.m1 * child.m2).abs().mean() for _, child in kit.at_sites(model, "ziplora", Zip)]
    return torch.stack(parts).sum()


def merge(model: nn.Module) -> nn.Module:
    """Add both changes to the weights."""
    return kit.fold(model, "ziplora")
