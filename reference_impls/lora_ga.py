"""LoRA-GA: low-rank adaptation with gradient approximation (wang2024loraga).

    dL/dW_0 = U S V^T,   A_0 = c V_{1..r}^T,   B_0 = c U_{r+1..2r},   c = d_out^(1/4) / gamma^(1/2)
    h = W_0 x + s (B A - B_0 A_0) x,   s = alpha / r

Trained: A (r, d_in) and B (d_out, r), which `calibrate` starts from the gradient of every targeted weight on a few
batches: the first step of the product is then the best approximation of rank 2 r of a full gradient step. The start
B_0 A_0 depends on the data and is kept. At inference the difference is added to W_0. In the authors' code and in
peft B_0 A_0 is taken out of the weight, and the decomposition is a randomised one; the paper's s is alpha / sqrt(r).
peft also multiplies B_0 by the singular values, and only B_0 by c.
"""

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from . import _kit as kit
from . import _starts, lora


class LoRAGA(_starts.Anchored):
    """The correction beside one weight, started along the weight's gradient."""

    def __init__(self, d_in: int, d_out: int, *, r: int, alpha: float, dropout: float, stable_gamma: float):
        super().__init__(d_in, d_out, r=r, alpha=alpha, dropout=dropout)
        self.size = d_out**0.25 / stable_gamma**0.5

    def approximate(self, gradient: Tensor) -> None:
        """Start from the gradient of the weight (d_out, d_in)."""
        r = len(self.A)
        u, _, v = torch.linalg.svd(gradient, full_matrices=False)
        self.start(self.size * u[:, r : 2 * r], self.size * v[:r])


def apply(
    model: nn.Module, *, r: int = 32, alpha: float = 8.0, dropout: float = 0.0, stable_gamma: float = 16.0,
    targets: tuple[str, ...] = ("attn.*", "xattn.*", "mlp.*"),
) -> nn.Module:
    """Freeze the model and put a correction beside every targeted weight; `calibrate` then gives it its start."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        child = LoRAGA(site.d_in, site.d_out, r=r, alpha=alpha, dropout=dropout, stable_gamma=stable_gamma)
        kit.attach(site, "lora_ga", child)
    return model


def calibrate(model: nn.Module, losses: Iterable[Tensor]) -> nn.Module:
    """Start all factors from the weights' gradients of the losses, added up."""
    pairs = list(kit.at_sites(model, "lora_ga", LoRAGA))
    found = _starts.gradients([site for site, _ in pairs], losses)
    for (_, child), gradient in zip(pairs, found, strict=True):
        child.approximate(gradient)
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add what the factors have learned to the weights."""
    return lora.merge(model, name="lora_ga")


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the module on `x`, and start a copy of it from the loss sum(output * weights) on `data`; for the vectors."""
    [(site, _)] = kit.at_sites(model, "lora_ga", LoRAGA)
    output: Tensor = site.module(inputs["x"])
    started = copy.deepcopy(model)
    host = started.get_submodule(site.path)
    calibrate(started, ((host(inputs["data"]) * inputs["weights"]).sum() for _ in range(1)))
    [(_, child)] = kit.at_sites(started, "lora_ga", LoRAGA)
    return {"output": output, "sizes_A": child.A.abs(), "sizes_B": child.B.abs()}
