"""LoRA-Pro: low-rank steps that are nearest to those of full fine-tuning (wang2024lorapro; code_lorapro).

    h = W_0 x + s B A x,    s = alpha / r;    of all gA, gB the change g = s B gA + s gB A is nearest to dL/dW with
    gA = 1/s^2 (B^T B)^-1 dL/dA + X A,    gB = 1/s^2 (I - B (B^T B)^-1 B^T) dL/dB (A A^T)^-1 - B X,
    B^T B X + X A A^T = -1/s^2 (B^T B)^-1 dL/dA A^T

Trained: A (r, d_in) and B (d_out, r), as in LoRA. What is new is in the gradients: a training loop calls
`adjust(model)` between the backward pass and a step of SGD. It takes g through the moments of Adam (d_out, d_in), and
turns Adam's step back into steps of A and B by the same formulas. At inference nothing is left: the product is added
to W_0. The authors' counter of steps is one ahead, and their scale is fixed at 2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from . import _kit as kit
from . import lora


class LoRAPro(lora.LoRA):
    """A correction whose gradients can be adjusted, with the moments of the weight's change."""

    def __init__(self, d_in: int, d_out: int, *, r: int, alpha: float, dropout: float, reg: float):
        super().__init__(d_in, d_out, r=r, alpha=alpha, dropout=dropout)
        self.reg, self.steps = reg, 0
        self.moments: tuple[Tensor, Tensor] | None = None           # each (d_out, d_in)

    @torch.no_grad()
    def adjust(self, betas: tuple[float, float], eps: float) -> None:
        """Replace the gradients of A and B."""
        if self.A.grad is None or self.B.grad is None:
            return
        low_a, low_b = self.nearest(self.A.grad, self.B.grad)
        change = self.scale * (self.B @ low_a + low_b @ self.A)     # (d_out, d_in)
        self.steps += 1
        step = self.adam(change, betas, eps)
        grad_a, grad_b = self.scale * (self.B.T @ step), self.scale * (step @ self.A.T)
        low_a, low_b = self.nearest(grad_a, grad_b)
        x = sylvester(self.B.T @ self.B, self.A @ self.A.T, -low_a @ self.A.T)
        self.A.grad.copy_(low_a + x @ self.A)
        self.B.grad.copy_(low_b - self.B @ x)

    def nearest(self, grad_a: Tensor, grad_b: Tensor) -> tuple[Tensor, Tensor]:
        """Return the adjusted gradients for X = 0."""
        inverse_a, inverse_b = self.inverse(self.A @ self.A.T), self.inverse(self.B.T @ self.B)         # (r, r)
        across = grad_b - self.B @ (inverse_b @ (self.B.T @ grad_b))
        return inverse_b @ grad_a / self.scale**2, across @ inverse_a / self.scale**2

    def inverse(self, gram: Tensor) -> Tensor:
        found: Tensor = torch.linalg.pinv(gram + self.reg * torch.eye(len(gram)).to(gram))
        return found

    def adam(self, change: Tensor, betas: tuple[float, float], eps: float) -> Tensor:
        """Return Adam's step for a change, without the learning rate."""
        if self.moments is None:
            self.moments = torch.zeros_like(change), torch.zeros_like(change)
        first, second = self.moments
        first.lerp_(change, 1 - betas[0])
        second.mul_(betas[1]).addcmul_(change, change, value=1 - betas[1])
        root = (second / (1 - betas[1] ** self.steps)).sqrt()
        return first / (1 - betas[0] ** self.steps) / (root + eps)


def sylvester(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Solve a X + X b = c for symmetric a and b, (r, r)."""
    (s, u), (t, v) = torch.linalg.eigh(a), torch.linalg.eigh(b)
    solution: Tensor = u @ (u.T @ c @ v / (s[:, None] + t)) @ v.T
    return solution


def apply(
    model: nn.Module, *, r: int = 8, alpha: float = 16.0, dropout: float = 0.0, reg: float = 1e-8,
    targets: tuple[str, ...] = ("attn.*", "xattn.*", "mlp.*"),
) -> nn.Module:
    """Freeze the model and put a low-rank correction beside every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        child = LoRAPro(site.d_in, site.d_out, r=r, alpha=alpha, dropout=dropout, reg=reg)
        kit.attach(site, "lora_pro", child)
    return model


def adjust(model: nn.Module, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8) -> None:
    """Adjust the gradients of all factors, in place. A step of SGD comes next."""
    for _, child in kit.at_sites(model, "lora_pro", LoRAPro):
        child.adjust(betas, eps)


def merge(model: nn.Module) -> nn.Module:
    """Add the corrections to the weights."""
    return lora.merge(model, name="lora_pro")


@torch.no_grad()
def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the module on `x`, and take steps with recorded gradients on a copy; for the golden vectors."""
    [(site, child)] = kit.at_sites(model, "lora_pro", LoRAPro)
    with torch.enable_grad():
        output: Tensor = site.module(inputs["x"])
    one = LoRAPro(
        site.d_in, site.d_out, r=len(child.A), alpha=child.scale * len(child.A), dropout=0.0, reg=child.reg
    ).to(child.A)  # fmt: skip
    one.A.copy_(inputs["A"])
    one.steps = int(inputs["steps_before"])
    for grad_a, grad_b in zip(inputs["grads_A"], inputs["grads_B"], strict=True):
        one.A.grad, one.B.grad = grad_a.clone(), grad_b.clone()
        one.adjust((0.9, 0.999), 1e-8)
        one.A.sub_(inputs["lr"] * one.A.grad)
        one.B.sub_(inputs["lr"] * one.B.grad)
    assert one.moments is not None
    return {"output": output, "A": one.A, "B": one.B, "first": one.moments[0], "second": one.moments[1]}
