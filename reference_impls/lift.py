"""LIFT: low-rank informed sparse fine-tuning (liu2025lift; code_lift).

    theta <- theta - eta Adam(G_J) at the entries J;    J: the r (m + n) largest entries of |W_k|

W_k is the approximation of rank k of the current weight (m, n). Trained: the entries J of every matrix in the layers,
with moments of this size. They are chosen again every `gap` steps. An entry that stays keeps its moments, a new one
starts with zeros. Nothing is added: what is new is in the optimizer. A training loop uses `optimizer(model, lr=...)`.
At inference and in storage: a full model. In the authors' code the choice of the largest entries depends on the name of
the mask.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from peftonomy.backbones.modules import LINEAR

from . import _kit as kit
from . import _recipe


def apply(model: nn.Module, *, r: int = 128, k: int = 128, gap: int = 200, name: str = "lift") -> nn.Module:
    """Let the optimizer move the matrices in the layers."""
    _recipe.keep(model, name, r=r, k=k, gap=gap)
    for weight in kit.weights(model):
        if weight.kind in LINEAR and weight.layer is not None and weight.name.endswith(".weight"):
            weight.value.requires_grad_(True)
    return model


def choose(weight: Tensor, r: int, k: int) -> Tensor:
    """Return the positions of the r (m + n) largest entries of the approximation of rank k."""
    left, sizes, right = torch.linalg.svd(weight.float(), full_matrices=False)
    low = (left[:, :k] * sizes[:k]) @ right[:k]                     # (m, n)
    count = min(r * sum(weight.shape), weight.numel())
    chosen: Tensor = low.abs_().flatten().topk(count).indices       # (count,)
    return chosen


class LIFT(_recipe.OnMatrices):
    """AdamW, which moves and remembers the chosen entries of matrices only."""

    @torch.no_grad()
    def update(self, weight: Tensor, group: dict[str, Any]) -> None:
        """Update one matrix (m, n)."""
        gradient, state = weight.grad, self.state[weight]
        assert gradient is not None
        step = state["step"] = state.get("step", 0) + 1
        if step == 1 or step % group["gap"] == 0:
            self.renew(state, weight, group)
        chosen = state["chosen"]
        entries = gradient.flatten()[chosen]                        # (count,)
        first, second, (beta_1, beta_2) = state["exp_avg"], state["exp_avg_sq"], group["betas"]
        first.mul_(beta_1).add_(entries, alpha=1 - beta_1)
        second.mul_(beta_2).addcmul_(entries, entries, value=1 - beta_2)
        rate = group["lr"] * (1 - beta_2**step) ** 0.5 / (1 - beta_1**step)
        change = first / second.sqrt().add_(group["eps"])
        weight.view(-1).index_add_(0, chosen, change, alpha=-rate)

    def renew(self, state: dict[str, Any], weight: Tensor, group: dict[str, Any]) -> None:
        """Choose the entries again. Those that stay keep their moments."""
        before, chosen = state.get("chosen"), choose(weight, group["r"], group["k"])
        for name in ("exp_avg", "exp_avg_sq"):
            whole = torch.zeros_like(weight).flatten()
            if before is not None:
                whole[before] = state[name]
            state[name] = whole[chosen]
        state["chosen"] = chosen


def optimizer(model: nn.Module, *, name: str = "lift", **settings: Any) -> LIFT:
    """Return the optimizer of everything that is trained. settings: those of AdamW, such as `lr`."""
    return LIFT(model, _recipe.kept(model, name), **settings)


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take steps with recorded gradients on two matrices; for the golden vectors."""
    own = optimizer(model, lr=inputs["lr"].item(), betas=tuple(inputs["betas"].tolist()))
    wide, tall = (kit.sites(model, [role])[0].module.weight for role in ("mlp.down", "mlp.up"))
    masks = []
    for number in range(len(inputs["grad_wide"])):
        wide.grad, tall.grad = inputs["grad_wide"][number], inputs["grad_tall"][number]
        own.step()
        mask = torch.zeros_like(wide).flatten()
        mask[own.state[wide]["chosen"]] = 1
        masks.append(mask.view_as(wide))
    return {"output": wide, "tall": tall, "masks": torch.stack(masks)}
