"""Riemannian preconditioned LoRA (zhang2024riemannian).

    h = W_0 x + (alpha / r) B A x
    before every step:  grad A <- (B^T B + reg I)^-1 grad A,    grad B <- grad B (A A^T + reg I)^-1

Trained: A (r, d_in) and B (d_out, r), as in LoRA. What is new is in the optimiser: a training loop calls
`precondition(model)` between the backward pass and the step of any optimiser, SGD or AdamW. The step of the product
B A then does not depend on how the product is shared out between its factors. At inference nothing is left: the
product is added to W_0. The authors' reg is 1e-6, peft's 0.01; both, as this, leave alpha / r aside.
"""

import torch
from torch import Tensor, nn

from . import _kit as kit
from . import lora


class Preconditioned(lora.LoRA):
    """A correction whose gradients can be turned into those of the product."""

    def __init__(self, d_in: int, d_out: int, *, r: int, alpha: float, dropout: float, reg: float):
        super().__init__(d_in, d_out, r=r, alpha=alpha, dropout=dropout)
        self.reg = reg

    @torch.no_grad()
    def precondition(self) -> None:
        if self.A.grad is not None and self.B.grad is not None:
            self.A.grad.copy_(self.inverse(self.B.T @ self.B) @ self.A.grad)            # (r, d_in)
            self.B.grad.copy_(self.B.grad @ self.inverse(self.A @ self.A.T))            # (d_out, r)

    def inverse(self, gram: Tensor) -> Tensor:
        found: Tensor = torch.linalg.pinv(gram + self.reg * torch.eye(len(gram)).to(gram))
        return found                                                                    # (r, r)


def apply(
    model: nn.Module, *, r: int = 4, alpha: float = 32.0, dropout: float = 0.1, reg: float = 1e-6,
    targets: tuple[str, ...] = ("attn.q", "attn.v", "xattn.q", "xattn.v"),
) -> nn.Module:
    """Freeze the model and put a low-rank correction beside every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        child = Preconditioned(site.d_in, site.d_out, r=r, alpha=alpha, dropout=dropout, reg=reg)
        kit.attach(site, "riemannian_lora", child)
    return model


def precondition(model: nn.Module) -> None:
    """Precondition the gradients of all factors, in place."""
    for _, child in kit.at_sites(model, "riemannian_lora", Preconditioned):
        child.precondition()


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the targeted layers, and precondition recorded gradients; for the golden vectors."""
    pairs = list(kit.at_sites(model, "riemannian_lora", Preconditioned))
    outputs = [site.module(inputs["x"]) for site, _ in pairs]
    for i, (_, child) in enumerate(pairs):
        child.A.grad, child.B.grad = inputs[f"A#{i}"].clone(), inputs[f"B#{i}"].clone()
    precondition(model)
    steps = {f"step {name}#{i}": getattr(child, name).grad for i, (_, child) in enumerate(pairs) for name in "AB"}
    return {"output": outputs[0], "output 1": outputs[1], **steps}


def merge(model: nn.Module) -> nn.Module:
    """Add the corrections to the weights."""
    return lora.merge(model, name="riemannian_lora")
