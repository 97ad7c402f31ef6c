"""SIFT: sparse increment fine-tuning (song2023sift; code_sift).

    h = (W_0 + S) x,    S zero but at floor(rate d_in d_out) + 1 fixed positions

Trained: the values of S. `calibrate` chooses the positions with the largest absolute gradient of the weight for the
first loss; before, they are the first ones. Stored: the values and their positions. At inference S is added to W_0.
The authors' code adds each update to the weight in place, during the next backward pass.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from . import _kit as kit
from . import _starts
from .rosa import dense, sparse_product


class SIFT(kit.Child):
    """The sparse increment of one weight of shape (d_out, d_in)."""

    positions: Tensor

    def __init__(self, d_in: int, d_out: int, *, rate: float):
        super().__init__()
        self.shape = d_out, d_in
        count = min(math.floor(rate * (d_in * d_out)) + 1, d_in * d_out)
        self.values = nn.Parameter(torch.zeros(count))
        self.register_buffer("positions", torch.arange(count))      # into the flattened weight

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        return y + sparse_product(x, self.values, self.positions, y.shape[-1])      # (..., d_in) -> (..., d_out)

    def delta(self) -> Tensor:
        return dense(self.values, self.positions, *self.shape)      # (d_out, d_in)


def apply(
    model: nn.Module, *, rate: float = 0.05, targets: tuple[str, ...] = ("attn.*", "xattn.*", "mlp.*")
) -> nn.Module:
    """Freeze the model and put an increment beside every targeted weight; `calibrate` chooses the positions."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        kit.attach(site, "sift", SIFT(site.d_in, site.d_out, rate=rate))
    return model


def scores(model: nn.Module, loss: Tensor) -> list[Tensor]:
    """Return the absolute gradient (d_out, d_in) of each targeted weight."""
    sites = [site for site, _ in kit.at_sites(model, "sift", SIFT)]
    hosts = list(dict.fromkeys(site.module for site in sites))
    found = dict(zip(hosts, torch.autograd.grad(loss, [host.weight for host in hosts]), strict=True))
    return [_starts.part(site, found[site.module]).abs() for site in sites]


def calibrate(model: nn.Module, losses: Iterable[Tensor]) -> nn.Module:
    """Choose the positions by the first loss. The others are not used."""
    hosts = {site.module: site.module.weight.requires_grad_(True) for site, _ in kit.at_sites(model, "sift", SIFT)}
    for number, loss in enumerate(losses):
        if number == 0:
            choose(model, scores(model, loss))
    for weight in hosts.values():
        weight.requires_grad_(False)
    return model


@torch.no_grad()
def choose(model: nn.Module, found: Iterable[Tensor]) -> None:
    """Let each increment have the entries with the largest scores."""
    for (_, child), score in zip(kit.at_sites(model, "sift", SIFT), found, strict=True):
        child.positions.copy_(score.flatten().topk(len(child.values)).indices)


def merge(model: nn.Module) -> nn.Module:
    """Add the increments to the weights."""
    return kit.fold(model, "sift")


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the module on `x`, and score its entries by the loss sum(output * weights) of `data`; for the vectors."""
    [(site, child)] = kit.at_sites(model, "sift", SIFT)
    output: Tensor = site.module(inputs["x"])
    site.module.weight.requires_grad_(True)
    base = nn.functional.linear(inputs["data"], site.module.weight, site.module.bias)
    [score] = scores(model, (base * inputs["weights"]).sum())
    site.module.weight.requires_grad_(False)
    chosen = torch.zeros_like(score).flatten().index_fill(0, score.flatten().topk(len(child.values)).indices, 1.0)
    return {"output": output, "scores": score, "mask": chosen.view_as(score)}
