"""LoRA-Pro: low-rank steps that are nearest to those of full fine-tuning (wang2024lorapro; code_lorapro).

    h = W_0 x + s B A x,    s = alpha / r;    of all gA, gB the change g = s B gA + s gB A is nearest to dL/dW with
    gA = 1/s^2 (B^T B)^-1 dL/dA + X A,    gB = 1/s^2 (I - B (B^T B)^-1 B^T) dL/dB (A A^T)^-1 - B X,
    B^T B X + X A A^T = -1/s^2 (B^T B)^-1 dL/dA A^T

Trained: A (r, d_in) and B (d_out, r), as in LoRA. What is new is in the optimizer. It takes g through the moments of
Adam (d_out, d_in), and turns Adam's step back into steps of A and B by the same formulas. At inference nothing is left:
the product is added to W_0. The authors' counter of steps is one ahead, and their scale is fixed at 2.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from . import _kit as kit
from . import lora


class LoRAPro(lora.LoRA):
    """A correction whose steps are computed together."""

    def __init__(self, d_in: int, d_out: int, *, r: int, alpha: float, dropout: float, reg: float):
        super().__init__(d_in, d_out, r=r, alpha=alpha, dropout=dropout)
        self.reg = reg

    def change(self, low_a: Tensor, low_b: Tensor) -> Tensor:
        """Return the change (d_out, d_in) of the weight by steps of both factors, to first order."""
        return (low_b @ self.A).addmm_(self.B, low_a).mul_(self.scale)

    def nearest(self, grad_a: Tensor, grad_b: Tensor) -> tuple[Tensor, Tensor]:
        """Return the adjusted gradients for X = 0."""
        inverse_a, inverse_b = self.inverse(self.A @ self.A.T), self.inverse(self.B.T @ self.B)         # (r, r)
        across = grad_b - self.B @ (inverse_b @ (self.B.T @ grad_b))
        return inverse_b @ grad_a / self.scale**2, across @ inverse_a / self.scale**2

    def inverse(self, gram: Tensor) -> Tensor:
        wide = gram.to(torch.promote_types(gram.dtype, torch.float32))      # no decomposition has a narrower type
        found: Tensor = torch.linalg.pinv(wide + self.reg * torch.eye(len(gram)).to(wide), hermitian=True)
        return found.to(gram.dtype)

    def projected(self, step: Tensor) -> tuple[Tensor, Tensor]:
        """Return the steps of the factors that change the weight most like a step of it (d_out, d_in)."""
        low_a, low_b = self.nearest(self.scale * (self.B.T @ step), self.scale * (step @ self.A.T))
        x = sylvester(self.B.T @ self.B, self.A @ self.A.T, -low_a @ self.A.T)
        return low_a + x @ self.A, low_b - self.B @ x


def adam(change: Tensor, state: dict[str, Any], betas: tuple[float, float], eps: float) -> Tensor:
    """Return Adam's step for a change (d_out, d_in), without the learning rate. The change is overwritten."""
    if "first" not in state:
        state["first"], state["second"] = torch.zeros_like(change), torch.zeros_like(change)
    state["step"] = state.get("step", 0) + 1
    state["first"].lerp_(change, 1 - betas[0])
    state["second"].mul_(betas[1]).addcmul_(change, change, value=1 - betas[1])
    root = change.copy_(state["second"]).div_(1 - betas[1] ** state["step"]).sqrt_().add_(eps)
    step: Tensor = (state["first"] / root).div_(1 - betas[0] ** state["step"])
    return step


def sylvester(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Solve a X + X b = c for symmetric a and b, (r, r)."""
    wide = torch.promote_types(a.dtype, torch.float32)
    (s, u), (t, v) = torch.linalg.eigh(a.to(wide)), torch.linalg.eigh(b.to(wide))
    solution: Tensor = u @ (u.T @ c.to(wide) @ v / (s[:, None] + t)) @ v.T
    return solution.to(c.dtype)


class Projected(torch.optim.AdamW):
    """AdamW for all but the factors of the corrections, which take Adam's step of the weight, projected."""

    def __init__(self, model: nn.Module, **settings: Any):
        self.pairs = [child for _, child in kit.at_sites(model, "lora_pro", LoRAPro)]
        factors = [factor for child in self.pairs for factor in (child.A, child.B)]
        own = {id(factor) for factor in factors}
        others = [p for p in model.parameters() if p.requires_grad and id(p) not in own]
        super().__init__([{"params": others}, {"params": factors}], **{"weight_decay": 0.0} | settings)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update all parameters that have a gradient."""
        groups = self.param_groups
        self.param_groups = groups[:1]
        found = super().step(closure)
        self.param_groups = groups
        for child in self.pairs:
            if child.A.grad is not None and child.B.grad is not None:
                self.update(child, groups[1])
        return found

    def update(self, child: LoRAPro, group: dict[str, Any]) -> None:
        """Update the factors of one weight."""
        assert child.A.grad is not None
        assert child.B.grad is not None
        low_a, low_b = child.nearest(child.A.grad, child.B.grad)
        step = adam(child.change(low_a, low_b), self.state[child.A], group["betas"], group["eps"])
        step_a, step_b = child.projected(step)
        for factor, step in ((child.A, step_a), (child.B, step_b)):
            factor.mul_(1 - group["lr"] * group["weight_decay"]).sub_(group["lr"] * step)


def optimizer(model: nn.Module, **settings: Any) -> Projected:
    """Return the optimizer of everything that is trained. settings: those of AdamW, such as `lr`."""
    return Projected(model, **settings)


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
    own = Projected.__new__(Projected)
    torch.optim.AdamW.__init__(own, [one.A, one.B], lr=inputs["lr"].item(), weight_decay=0.0)
    own.state[one.A]["step"] = int(inputs["steps_before"])
    for grad_a, grad_b in zip(inputs["grads_A"], inputs["grads_B"], strict=True):
        one.A.grad, one.B.grad = grad_a.clone(), grad_b.clone()
        own.update(one, own.param_groups[0])
    state = own.state[one.A]
    return {"output": output, "A": one.A, "B": one.B, "first": state["first"], "second": state["second"]}
