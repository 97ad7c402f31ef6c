"""MeZO: zeroth-order descent from two forward passes (malladi2023mezo; code_mezo).

    g = (L(theta + eps z) - L(theta - eps z)) / (2 eps),    theta <- theta - eta g z,    z ~ N(0, I)

Trained: every pretrained parameter. Nothing is added: what is new is in the optimizer. There is no backward pass, so
nothing is saved and there are no gradients. z is never held as a whole: a seed draws it again, one parameter at a time,
for each of the three shifts and for the update. At inference and in storage: a full model.

A training loop uses `optimizer(model, lr=...)` and calls `step(closure)`, where `closure()` returns the loss.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from . import _kit as kit
from . import _recipe


def apply(model: nn.Module, *, eps: float = 1e-3, name: str = "mezo") -> nn.Module:
    """Let the optimizer move all that was pretrained."""
    return _recipe.keep_and_train(model, name, eps=eps)


class MeZO(torch.optim.Optimizer):
    """Descent along a random direction, by the difference of two losses. It has no states."""

    def __init__(self, model: nn.Module, *, eps: float, lr: float, weight_decay: float = 0.0):
        self.model, self.eps = model, eps
        self.seed: Callable[[], int] = lambda: int(torch.randint(2**31 - 1, ()).item())
        super().__init__([p for p in model.parameters() if p.requires_grad], {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor]) -> float:  # type: ignore[override]
        """Run the closure twice, in evaluation mode, and update all parameters. Returns the first loss."""
        seed, was = self.seed(), self.model.training
        self.model.eval()
        self.shift(seed, self.eps)
        first = closure().item()
        self.shift(seed, -2 * self.eps)
        second = closure().item()
        self.shift(seed, self.eps)
        self.model.train(was)
        slope = (first - second) / (2 * self.eps)
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.dim() > 1:        # biases and norms do not decay
                    weight.mul_(1 - group["lr"] * group["weight_decay"])
        self.shift(seed, -self.param_groups[0]["lr"] * slope)
        return first

    def shift(self, seed: int, scale: float) -> None:
        """Add the direction of a seed, times a number, to the parameters."""
        parameters = [weight for group in self.param_groups for weight in group["params"]]
        generator = torch.Generator(parameters[0].device).manual_seed(seed)
        for weight in parameters:
            nudge(weight, generator, scale)


def nudge(weight: Tensor, generator: torch.Generator, scale: float) -> None:
    """Add random numbers to one parameter in place. They exist only here."""
    weight.add_(torch.randn(weight.shape, generator=generator, dtype=weight.dtype, device=weight.device), alpha=scale)


def optimizer(model: nn.Module, *, name: str = "mezo", foreach: bool = False, **settings: Any) -> MeZO:
    """Return the optimizer of everything that is trained. settings: `lr` and `weight_decay`."""
    assert not foreach, "the direction is drawn for one parameter at a time"
    return MeZO(model, **_recipe.kept(model, name), **settings)


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take steps on two matrices of the model, from recorded seeds; for the golden vectors."""
    up, down = (kit.sites(model, [role])[0].module.weight for role in ("mlp.up", "mlp.down"))
    for parameter in model.parameters():
        parameter.requires_grad_(parameter is up or parameter is down)
    own = optimizer(model, lr=inputs["lr"].item(), weight_decay=inputs["decay"].item())
    seeds = iter(inputs["seeds"].tolist())
    own.seed = lambda: int(next(seeds))
    losses = [own.step(lambda: (inputs["x"] @ up.T @ down.T - inputs["y"]).square().mean()) for _ in inputs["seeds"]]
    return {"output": down, "up": up, "losses": torch.tensor(losses, dtype=down.dtype)}
