"""Starts of LoRA's factors that are computed from the weight or from data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from . import _kit as kit
from . import lora

Start = Callable[[Tensor, int, float], tuple[Tensor, Tensor]]
"""Compute the initial B (d_out, r) and A (r, d_in) from a weight (d_out, d_in), a rank and a scale."""


@torch.no_grad()
def apply(
    model: nn.Module, start: Start, *, r: int, alpha: float, dropout: float, targets: tuple[str, ...], name: str
) -> nn.Module:
    """Apply LoRA, initialise the factors with `start`, and subtract their product from the weight.

    Raises ValueError if the rank is larger than the rank of a weight.
    """
    lora.apply(model, r=r, alpha=alpha, dropout=dropout, targets=targets, name=name)
    for site, child in kit.at_sites(model, name, lora.LoRA):
        if r > min(site.d_in, site.d_out):
            raise ValueError(f"rank {r} is larger than that of a weight of {site.d_out} x {site.d_in}")
        b, a = start(site.weight, r, child.scale)
        child.B.copy_(b)
        child.A.copy_(a)
        site.weight.sub_(child.delta())
    return model


class Anchored(lora.LoRA):
    """LoRA's factors with a copy of their initial values, whose product is subtracted from the output.

    For starts that cannot be recomputed from the weight. The weight stays as it was pretrained and can serve other
    tasks. Each task stores its start.
    """

    A_0: Tensor
    B_0: Tensor

    def __init__(self, d_in: int, d_out: int, *, r: int, alpha: float, dropout: float):
        super().__init__(d_in, d_out, r=r, alpha=alpha, dropout=dropout)
        self.register_buffer("A_0", torch.zeros(r, d_in))
        self.register_buffer("B_0", torch.zeros(d_out, r))

    @torch.no_grad()
    def start(self, b: Tensor, a: Tensor) -> None:
        """Initialise the factors with B (d_out, r) and A (r, d_in)."""
        for mine, given in ((self.B, b), (self.B_0, b), (self.A, a), (self.A_0, a)):
            mine.copy_(given)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        return super().after(x, y) - self.scale * (x @ self.A_0.T @ self.B_0.T)     # (..., d_out)

    def delta(self) -> Tensor:
        return super().delta() - self.scale * (self.B_0 @ self.A_0)                 # (d_out, d_in)


def gradients(sites: Sequence[kit.Site], losses: Iterable[Tensor]) -> list[Tensor]:
    """Return the gradient (d_out, d_in) of the weight of each site, summed over the losses."""
    hosts = list(dict.fromkeys(site.module for site in sites))
    held = [host.weight.requires_grad_(True) for host in hosts]
    total = {host: torch.zeros_like(host.weight) for host in hosts}
    for loss in losses:
        for host, gradient in zip(hosts, torch.autograd.grad(loss, held), strict=True):
            total[host] += gradient
    for weight in held:
        weight.requires_grad_(False)
    return [part(site, total[site.module]) for site in sites]


def part(site: kit.Site, whole: Tensor) -> Tensor:
    """Return the site's part (d_out, d_in) of a tensor of the size of its module's weight."""
    return (whole.T if site.transposed else whole)[site.start : site.stop]


def read(hosts: Sequence[nn.Module], losses: Iterable[Tensor], see: Callable[[nn.Module, Tensor], None]) -> None:
    """Compute the losses, and call `see(host, x)` with each input x (positions, d_in) of each host."""

    def hook(host: nn.Module, args: tuple[Tensor, ...]) -> None:
        see(host, args[0].detach().flatten(0, -2))

    handles = [host.register_forward_pre_hook(hook) for host in hosts]
    for _ in losses:
        pass                            # only the forward passes are needed
    for handle in handles:
        handle.remove()
