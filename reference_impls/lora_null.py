"""LoRA-Null: low-rank adaptation via null space (tang2025loranull; code_lora_null).

    C = E[x x^T],   N = the r singular vectors of C with the smallest singular values,   s B_0 A_0 = W_0 N N^T
    h = W_0 x + s (B A - B_0 A_0) x,   s = alpha / r

Trained: B (d_out, r) and, unless `freeze_a`, A (r, d_in). `calibrate` starts them from the inputs of every targeted
module on samples of the knowledge that must stay: as the part of the weight that reads directions which these inputs
use least. The start B_0 A_0 depends on the data and is stored. At inference the difference is added to W_0.

As in the authors' code, each sample (one forward pass) is divided by the magnitude of its largest signed entry. The
authors take B_0 A_0 out of the weight; here it is subtracted beside it.
"""

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from . import _kit as kit
from . import _starts, lora


class Null(lora.LoRA):
    """The correction beside one weight, started in the null space of its inputs."""

    A_0: Tensor | None
    B_0: Tensor

    def __init__(self, d_in: int, d_out: int, *, r: int, alpha: float, dropout: float, freeze_a: bool):
        super().__init__(d_in, d_out, r=r, alpha=alpha, dropout=dropout)
        nn.init.zeros_(self.A)
        self.A.requires_grad_(not freeze_a)
        self.register_buffer("A_0", None if freeze_a else torch.zeros(r, d_in))
        self.register_buffer("B_0", torch.zeros(d_out, r))

    @property
    def first(self) -> Tensor:
        """The first factor at the start, (r, d_in)."""
        return self.A if self.A_0 is None else self.A_0

    @torch.no_grad()
    def orient(self, weight: Tensor, moments: Tensor) -> None:
        """Start from a weight (d_out, d_in) and the second moments (d_in, d_in) of its inputs."""
        if not bool(moments.isfinite().all()):
            raise ValueError("the inputs of a layer are all zero or not finite; its null space cannot be computed")
        r = len(self.A)
        null = torch.linalg.svd(moments).U[:, -r:]                  # (d_in, r)
        u, s, v = torch.linalg.svd(weight @ null @ null.T, full_matrices=False)
        root = (s[:r] / self.scale).sqrt()
        self.B.copy_(u[:, :r] * root)
        self.A.copy_(root[:, None] * v[:r])
        self.B_0.copy_(self.B)
        if self.A_0 is not None:
            self.A_0.copy_(self.A)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        return super().after(x, y) - self.scale * (x @ self.first.T @ self.B_0.T)       # (..., d_out)

    def delta(self) -> Tensor:
        return super().delta() - self.scale * (self.B_0 @ self.first)                   # (d_out, d_in)


def apply(
    model: nn.Module, *, r: int = 128, alpha: float = 128.0, dropout: float = 0.0, freeze_a: bool = False,
    targets: tuple[str, ...] = ("attn.*", "xattn.*", "mlp.*"),
) -> nn.Module:
    """Freeze the model and put a correction beside every targeted weight; `calibrate` then gives it its start."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        child = Null(site.d_in, site.d_out, r=r, alpha=alpha, dropout=dropout, freeze_a=freeze_a)
        kit.attach(site, "lora_null", child)
    return model


def calibrate(model: nn.Module, losses: Iterable[Tensor]) -> nn.Module:
    """Start all factors from the inputs of the losses' forward passes: one sample each, 256 in the authors' script."""
    pairs = list(kit.at_sites(model, "lora_null", Null))
    moments: dict[nn.Module, Tensor] = {}

    def see(host: nn.Module, x: Tensor) -> None:
        x = x / x.max().abs()
        moments[host] = moments.get(host, torch.zeros(()).to(x)) + x.T @ x

    _starts.read(list(dict.fromkeys(site.module for site, _ in pairs)), losses, see)
    for site, child in pairs:
        child.orient(site.weight.detach(), moments[site.module])
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add what the factors have learned to the weights."""
    return lora.merge(model, name="lora_null")


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the method alone on recorded inputs; for the golden vectors. A copy of the model is started from `data`."""
    [(site, _)] = kit.at_sites(model, "lora_null", Null)
    output: Tensor = site.module(inputs["x"])
    started = copy.deepcopy(model)
    host = started.get_submodule(site.path)
    calibrate(started, (host(sample) for sample in inputs["data"]))
    [(_, child)] = kit.at_sites(started, "lora_null", Null)
    product = child.scale * child.B @ child.A
    return {"output": output, "product": product, "sizes_A": child.A.abs(), "sizes_B": child.B.abs()}
