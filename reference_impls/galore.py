"""GaLore: Adam on projected gradients (zhao2024galore; code_galore).

    R = G P^T,    W <- W - eta scale Adam(R) P,    P (r, n): first right singular vectors of G, every `gap` steps

A matrix W (m, n) with m < n is projected from the other side: R = P G with P (r, m), which holds left singular vectors.
Trained: every pretrained parameter. Nothing is added: what is new is in the optimizer. A training loop uses
`optimizer(model, lr=...)`, which keeps P and the two moments of R for every matrix of the layers, and the states of
AdamW for all other parameters. At inference and in storage: a full model.

In float32 the authors' code keeps all singular vectors of one side alive, because its P is a view of them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from . import _kit as kit
from . import _recipe


def apply(
    model: nn.Module, *, r: int = 128, gap: int = 200, scale: float = 0.25, name: str = "galore"
) -> nn.Module:
    """Let the optimizer move all that was pretrained."""
    return _recipe.keep_and_train(model, name, r=r, gap=gap, scale=scale)


class GaLore(_recipe.OnMatrices):
    """AdamW, but for the weights of linear modules: those take the step of Adam on projected gradients."""

    @torch.no_grad()
    def update(self, weight: Tensor, group: dict[str, Any]) -> None:
        """Update one matrix (m, n)."""
        gradient, state = weight.grad, self.state[weight]
        assert gradient is not None
        tall = gradient.shape[0] >= gradient.shape[1]
        step = state["step"] = state.get("step", 0) + 1
        if (step - 1) % group["gap"] == 0:
            state["P"] = vectors(gradient, group["r"], tall)
        low = gradient @ state["P"].T if tall else state["P"] @ gradient    # (m, r) or (r, n)
        if step == 1:
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(low), torch.zeros_like(low)
        first, second, (beta_1, beta_2) = state["exp_avg"], state["exp_avg_sq"], group["betas"]
        first.mul_(beta_1).add_(low, alpha=1 - beta_1)
        second.mul_(beta_2).addcmul_(low, low, value=1 - beta_2)
        root = second.sqrt().add_(group["eps"])
        change = first / root
        full = change @ state["P"] if tall else state["P"].T @ change       # (m, n)
        rate = group["lr"] * (1 - beta_2**step) ** 0.5 / (1 - beta_1**step)
        weight.add_(full, alpha=-rate * group["scale"])


def vectors(gradient: Tensor, r: int, tall: bool) -> Tensor:
    """Return the first r singular vectors of a gradient (m, n) as rows: right ones if tall, else left ones."""
    left, _, right = torch.linalg.svd(gradient.float(), full_matrices=False)
    rows: Tensor = right if tall else left.T
    return rows[:r].to(gradient.dtype, copy=True)


def optimizer(model: nn.Module, *, name: str = "galore", **settings: Any) -> GaLore:
    """Return the optimizer of everything that is trained. settings: those of AdamW, such as `lr`."""
    return GaLore(model, _recipe.kept(model, name), **settings)


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take steps with recorded gradients on two matrices; for the golden vectors."""
    own = optimizer(model, lr=inputs["lr"].item())
    wide, tall = (kit.sites(model, [role])[0].module.weight for role in ("mlp.down", "mlp.up"))
    for number in range(len(inputs["grad_wide"])):
        wide.grad, tall.grad = inputs["grad_wide"][number], inputs["grad_tall"][number]
        own.step()
    return {"output": wide, "tall": tall}
