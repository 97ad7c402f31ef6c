"""LoftQ: quantisation and LoRA start chosen together (li2024loftq).

    repeat T times:   Q <- q(W - s B A),    s B A <- the best fit of rank r to W - Q,    s = alpha / r
    h = Q x + s B A x

Trained: A (r, d_in) and B (d_out, r), which begin as the singular vectors of what rounding leaves out, each with the
root of the singular values. Q is held as NF4 codes with a scale per block of 64 weights and stays, like the pair,
at inference. Differences: the official script and peft do not divide the factors by s, so theirs fit at alpha = r
only; scales are not quantised again, as there. A fused matrix is rounded as a whole, and fitted slice by slice.
"""

import torch
from torch import Tensor, nn

from . import _kit as kit
from . import lora, qlora
from ._recomputed import register

Pair = tuple[kit.Site, lora.LoRA]


class NF4(qlora.NF4):
    """Four bits for each weight and 32 for the scale of a block: NF4 without double quantisation."""

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        blocks = qlora._blocks(weight.flatten(), qlora.BLOCK)                           # (n / 64, 64)
        scale = blocks.abs().amax(1).float()                                            # (n / 64,)
        steps = blocks / scale.clamp(min=qlora.TINY)[:, None]
        codes = torch.bucketize(steps, (self.points[1:] + self.points[:-1]) / 2).flatten().byte()       # (n,)
        return codes[::2] << 4 | codes[1::2], scale

    def forward(self, codes: Tensor, scale: Tensor) -> Tensor:  # type: ignore[override]
        steps = self.points[torch.stack([codes >> 4, codes & 15], 1).flatten().int()]                   # (n,)
        blocks = steps.view(-1, qlora.BLOCK) * scale.to(self.points)[:, None]
        return blocks.flatten()[: self.shape.numel()].view(self.shape)


def best_fit(error: Tensor, r: int) -> tuple[Tensor, Tensor]:
    """B (d_out, r) and A (r, d_in) whose product is the closest to the error that rank r allows."""
    u, s, v = torch.linalg.svd(error, full_matrices=False)
    root = s[:r].sqrt()
    return u[:, :r] * root, root[:, None] * v[:r]


@torch.no_grad()
def alternate(host: nn.Linear, pairs: list[Pair], iterations: int) -> list[float]:
    """Round the host's weight and fit its pairs, in turns. Returns the Frobenius norm of the error after each turn."""
    whole = host.weight.clone()
    quantise = NF4(whole)
    errors: list[float] = []
    for _ in range(iterations):
        for site, pair in pairs:
            site.weight.copy_(_slice(site, whole) - pair.delta() if errors else _slice(site, whole))
        held = quantise(*quantise.right_inverse(host.weight))
        host.weight.copy_(held)
        total = whole - held
        for site, pair in pairs:
            b, a = best_fit(_slice(site, total), len(pair.A))
            pair.B.copy_(b / pair.scale**0.5)
            pair.A.copy_(a / pair.scale**0.5)
            _slice(site, total).sub_(pair.delta())
        errors.append(total.norm().item())
    register(host, quantise)
    return errors


def _slice(site: kit.Site, whole: Tensor) -> Tensor:
    """The site's part of a matrix shaped as its module's weight, a view (d_out, d_in)."""
    return (whole.T if site.transposed else whole)[site.start : site.stop]


def apply(
    model: nn.Module, *, r: int = 16, alpha: float = 16.0, dropout: float = 0.1, iterations: int = 5,
    targets: tuple[str, ...] = ("attn.*", "xattn.*", "mlp.*"),
) -> nn.Module:
    """Freeze the model, put a pair beside every targeted weight, and quantise every matrix inside the layers."""
    kit.freeze(model)
    lora.apply(model, r=r, alpha=alpha, dropout=dropout, targets=targets, name="loftq")
    pairs = list(kit.at_sites(model, "loftq", lora.LoRA))
    hosts = {id(s.module): s.module for s in kit.sites(model, ("attn.*", "xattn.*", "mlp.*"))}
    for host in hosts.values():
        alternate(host, [pair for pair in pairs if pair[0].module is host], iterations)
    return model
