"""LoRA-SB: a square matrix between frozen factors, all started from a step of full fine-tuning (ponkshe2024lorasb).

    D = -lr sign(dL/dW_0) = U S V^T,    B = U_r,  R = S_r,  A = V_r^T,    h = W_0 x + B R A x

Trained: R (r, r) beside every targeted weight. Frozen: A (r, d_in) and B (d_out, r). `calibrate` starts all three from
the weight's gradient on a few batches: their product is the best approximation of rank r to the first step. It is not
subtracted, so training starts after this step. A and B are orthonormal and there is no scale. Therefore a step of
gradient descent on R moves the weight by the part of its own step that lies in the two subspaces. At inference the
product is added to W_0.
"""

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from . import _kit as kit
from . import _starts


class LoRASB(kit.Child):
    """The correction beside one weight of shape (d_out, d_in)."""

    A: Tensor
    B: Tensor

    def __init__(self, d_in: int, d_out: int, *, r: int):
        super().__init__()
        if r > min(d_in, d_out):
            raise ValueError(f"rank {r} is larger than that of a weight of {d_out} x {d_in}")
        self.register_buffer("A", torch.zeros(r, d_in))
        self.register_buffer("B", torch.zeros(d_out, r))
        self.R = nn.Parameter(torch.zeros(r, r))

    @torch.no_grad()
    def start(self, gradient: Tensor, lr: float) -> None:
        """Start from the gradient of the weight (d_out, d_in)."""
        u, s, v = torch.linalg.svd(-lr * gradient.sign(), full_matrices=False)
        r = len(self.R)
        self.B.copy_(u[:, :r])
        self.R.copy_(s[:r].diag())
        self.A.copy_(v[:r])

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        return y + x @ self.A.T @ self.R.T @ self.B.T               # (..., d_in) -> (..., r) -> (..., d_out)

    def delta(self) -> Tensor:
        return self.B @ self.R @ self.A                             # (d_out, d_in)


def apply(
    model: nn.Module, *, r: int = 96, targets: tuple[str, ...] = ("attn.*", "xattn.*", "mlp.*")
) -> nn.Module:
    """Freeze the model and put a square matrix beside every targeted weight; `calibrate` then gives it its start."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        kit.attach(site, "lora_sb", LoRASB(site.d_in, site.d_out, r=r))
    return model


def calibrate(model: nn.Module, losses: Iterable[Tensor], lr: float = 3e-7) -> nn.Module:
    """Start all factors from the weights' gradients of the losses, added up.

    lr is the rate of the first step, not that of training. The default is what the authors' script computes.
    """
    pairs = list(kit.at_sites(model, "lora_sb", LoRASB))
    found = _starts.gradients([site for site, _ in pairs], losses)
    for (_, child), gradient in zip(pairs, found, strict=True):
        child.start(gradient, lr)
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the corrections to the weights."""
    return kit.fold(model, "lora_sb")


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the module on `x`, and start a copy of it from the loss sum(output * weights) on `data`; for the vectors."""
    [(site, _)] = kit.at_sites(model, "lora_sb", LoRASB)
    output: Tensor = site.module(inputs["x"])
    started = copy.deepcopy(model)
    host = started.get_submodule(site.path)
    losses = ((host(inputs["data"]) * inputs["weights"]).sum() for _ in range(1))
    calibrate(started, losses, lr=float(inputs["lr"]))
    [(_, child)] = kit.at_sites(started, "lora_sb", LoRASB)
    sizes = {"sizes_A": child.A.abs(), "sizes_B": child.B.abs()}
    return {"output": output, "core": child.R, "change": child.delta()} | sizes
