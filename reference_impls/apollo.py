"""APOLLO: gradients scaled by factors from a small random projection (zhu2024apollo; code_apollo).

    R = G P^T,    s = |Adam(R)| / |R| for each row (or for the whole matrix),    W <- W - eta sqrt(scale) s G

P (r, n) is random and drawn again every `gap` steps. A matrix W (m, n) with m < n is projected from the other side, and
s is for each column. The norm of s G grows by at most 1 % from step to step. Trained: every pretrained parameter.
Nothing is added: what is new is in the optimizer. A training loop uses `optimizer(model, lr=...)`, which keeps P and
the two moments of R for every matrix of the layers, and the states of AdamW for all other parameters. APOLLO-Mini is
r = 1, scale = 128, per = tensor. At inference and in storage: a full model.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from . import _kit as kit
from . import _recipe

GROWTH = 1.01


def apply(
    model: nn.Module, *, r: int = 256, gap: int = 200, scale: float = 1.0, per: str = "channel", name: str = "apollo"
) -> nn.Module:
    """Let the optimizer move all that was pretrained."""
    return _recipe.keep_and_train(model, name, r=r, gap=gap, scale=scale, per=per)


class Apollo(_recipe.OnMatrices):
    """AdamW, but for the weights of linear modules: those take gradients with approximate factors of Adam."""

    @torch.no_grad()
    def update(self, weight: Tensor, group: dict[str, Any]) -> None:
        """Update one matrix (m, n)."""
        gradient, state, (beta_1, beta_2) = weight.grad, self.state[weight], group["betas"]
        assert gradient is not None
        tall = gradient.shape[0] >= gradient.shape[1]
        step = state["step"] = state.get("step", 0) + 1
        if (step - 1) % group["gap"] == 0:
            state["P"] = self.draw(group["r"], gradient.shape[1] if tall else gradient.shape[0], gradient)
        change = gradient * factors(gradient, state, group, tall)
        norm = torch.linalg.vector_norm(change)
        if "norm" in state:
            limiter = (norm / (state["norm"] + 1e-8)).clamp_(min=GROWTH).div_(GROWTH)
            change.div_(limiter)
            norm.div_(limiter)
        state["norm"] = norm
        rate = group["lr"] * (1 - beta_2**step) ** 0.5 / (1 - beta_1**step)
        weight.add_(change, alpha=-rate * group["scale"] ** 0.5)

    def draw(self, r: int, side: int, gradient: Tensor) -> Tensor:
        """Return a random projection (r, side) with variance 1 / r."""
        return torch.randn(r, side, dtype=torch.float32, device=gradient.device).div_(r**0.5).to(gradient.dtype)


def factors(gradient: Tensor, state: dict[str, Any], group: dict[str, Any], tall: bool) -> Tensor:
    """Return the factors of a gradient (m, n): (m, 1) if it is tall, else (1, n), or a single one."""
    low = gradient @ state["P"].T if tall else state["P"] @ gradient        # (m, r) or (r, n)
    if "exp_avg" not in state:
        state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(low), torch.zeros_like(low)
    first, second, (beta_1, beta_2) = state["exp_avg"], state["exp_avg_sq"], group["betas"]
    first.mul_(beta_1).add_(low, alpha=1 - beta_1)
    second.mul_(beta_2).addcmul_(low, low, value=1 - beta_2)
    ratio = first / second.sqrt().add_(group["eps"])
    over = None if group["per"] == "tensor" else 1 if tall else 0
    whole = torch.linalg.vector_norm(low, dim=over, keepdim=over is not None).add_(1e-8)
    factor: Tensor = torch.linalg.vector_norm(ratio, dim=over, keepdim=over is not None).div_(whole)
    return factor


def optimizer(model: nn.Module, *, name: str = "apollo", **settings: Any) -> Apollo:
    """Return the optimizer of everything that is trained. settings: those of AdamW, such as `lr`."""
    return Apollo(model, _recipe.kept(model, name), **settings)


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take steps with recorded gradients and projections on two matrices; for the golden vectors."""
    own = optimizer(model, lr=inputs["lr"].item())
    drawn = iter(inputs["projections"])
    own.draw = lambda *_: next(drawn)           # type: ignore[method-assign]
    wide, tall = (kit.sites(model, [role])[0].module.weight for role in ("mlp.down", "mlp.up"))
    for parameter in model.parameters():
        parameter.grad = None
    for number in range(len(inputs["grad_wide"])):
        wide.grad, tall.grad = inputs["grad_wide"][number], inputs["grad_tall"][number]
        for weight in (wide, tall):
            own.update(weight, own.param_groups[1])
    return {"output": wide, "tall": tall}
