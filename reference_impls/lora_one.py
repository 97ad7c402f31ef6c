"""LoRA-One: a start from the full gradient, which stays in the model (zhang2025loraone; code_lora_one).

    -dL/dW_0 = U S V^T,   B = U_r (S_r / s_1)^(1/2) / gamma^(1/2),   A = (S_r / s_1)^(1/2) V_r^T / gamma^(1/2)
    h = W_0 x + s B A x,   s = alpha / r^(1/2)

Trained: A (r, d_in) and B (d_out, r), which `calibrate` starts from the gradient of every targeted weight on a few
batches. Their product is a step of gradient descent in its best approximation of rank r, divided by the largest
singular value s_1. It is not subtracted, so training starts after this step. At inference the product is added to W_0.
"""

import copy
import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from . import _kit as kit
from . import _starts, lora


class LoRAOne(lora.LoRA):
    """The correction beside one weight, started as a step against the weight's gradient."""

    def __init__(self, d_in: int, d_out: int, *, r: int, alpha: float, dropout: float, stable_gamma: float):
        super().__init__(d_in, d_out, r=r, alpha=alpha * math.sqrt(r), dropout=dropout)
        if r > min(d_in, d_out):
            raise ValueError(f"rank {r} is larger than that of a weight of {d_out} x {d_in}")
        self.gamma = stable_gamma

    @torch.no_grad()
    def step(self, gradient: Tensor) -> None:
        """Start from the gradient of the weight (d_out, d_in)."""
        u, s, v = torch.linalg.svd(-gradient, full_matrices=False)
        r = len(self.A)
        root = (s[:r] / s[0] / self.gamma).sqrt()
        self.B.copy_(u[:, :r] * root)
        self.A.copy_(root[:, None] * v[:r])


def apply(
    model: nn.Module, *, r: int = 8, alpha: float = 16.0, dropout: float = 0.0, stable_gamma: float = 128.0,
    targets: tuple[str, ...] = ("attn.*", "xattn.*", "mlp.*"),
) -> nn.Module:
    """Freeze the model and put a correction beside every targeted weight; `calibrate` then gives it its start."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        child = LoRAOne(site.d_in, site.d_out, r=r, alpha=alpha, dropout=dropout, stable_gamma=stable_gamma)
        kit.attach(site, "lora_one", child)
    return model


def calibrate(model: nn.Module, losses: Iterable[Tensor]) -> nn.Module:
    """Start all factors from the weights' gradients of the losses, added up."""
    pairs = list(kit.at_sites(model, "lora_one", LoRAOne))
    found = _starts.gradients([site for site, _ in pairs], losses)
    for (_, child), gradient in zip(pairs, found, strict=True):
        child.step(gradient)
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the corrections to the weights."""
    return lora.merge(model, name="lora_one")


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the module on `x`, and start a copy of it from the loss sum(output * weights) on `data`; for the vectors."""
    [(site, _)] = kit.at_sites(model, "lora_one", LoRAOne)
    output: Tensor = site.module(inputs["x"])
    started = copy.deepcopy(model)
    host = started.get_submodule(site.path)
    calibrate(started, ((host(inputs["data"]) * inputs["weights"]).sum() for _ in range(1)))
    [(_, child)] = kit.at_sites(started, "lora_one", LoRAOne)
    return {"output": output, "sizes_A": child.A.abs(), "sizes_B": child.B.abs(), "change": child.delta()}
