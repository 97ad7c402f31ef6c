"""BAdam: Adam on one layer at a time (luo2024badam; code_badam).

    for each layer in turn: `interval` steps of Adam on a float32 copy of its parameters;    all others are frozen

Trained: every pretrained parameter of the layers, in the course of a run. Nothing is added: what is new is the
optimizer. A training loop uses `optimizer(model, lr=...)`, which holds a float32 copy and the two moments of the active
layer. They are dropped when the next layer begins. Embeddings, the final norm and a pretrained head stay frozen. At
inference and in storage: a full model.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from . import _kit as kit
from . import _recipe


def apply(model: nn.Module, *, interval: int = 100, name: str = "badam") -> nn.Module:
    """Let the optimizer move what was pretrained inside the layers."""
    _recipe.keep(model, name, interval=interval)
    for parameters in kit.layers(model).values():
        for parameter in parameters:
            parameter.requires_grad_(True)
    return model


class BAdam(torch.optim.AdamW):
    """AdamW, which works for one layer at a time on a float32 copy of it."""

    def __init__(self, model: nn.Module, *, interval: int, **settings: Any):
        self.layers, self.interval = kit.layers(model), interval
        self.waiting: list[tuple[str, int]] = []
        inside = {id(p) for parameters in self.layers.values() for p in parameters}
        outside = [p for p in model.parameters() if p.requires_grad and id(p) not in inside]
        super().__init__([{"params": outside}], **settings)      # a new head, which is the caller's
        self.draw()

    def step(self, closure: Any = None) -> Any:
        """Update the active layer. After every `interval` steps it is the turn of another one."""
        found = super().step(closure)
        self.update()
        self.steps += 1
        if self.steps == self.interval:
            self.draw()
        return found

    def draw(self) -> None:
        """Begin the turn of a random layer. Each comes once before any comes again."""
        if not self.waiting:
            places = [*self.layers]
            self.waiting = [places[i] for i in torch.randperm(len(places)).tolist()]
        self.turn({self.waiting.pop()})

    def turn(self, chosen: Collection[tuple[str, int]]) -> None:
        """Train these layers, each given by its stack and number. Freeze the others, drop all states and count steps
        anew."""
        self.steps = 0
        self.active = [p for place in chosen for p in self.layers[place]]
        for parameters in self.layers.values():
            for parameter in parameters:
                parameter.requires_grad_(False)
                parameter.grad = None
                self.state.pop(parameter, None)
        for parameter in self.active:
            parameter.requires_grad_(True)
            copy = parameter.detach().to(torch.float32, copy=True)
            self.state[parameter] = {
                "copy": copy, "exp_avg": torch.zeros_like(copy), "exp_avg_sq": torch.zeros_like(copy), "step": 0,
            }  # fmt: skip

    @torch.no_grad()
    def update(self) -> None:
        """Take a step of AdamW on the float32 copies of the active layer, with gradients in float32."""
        gradients = []
        for parameter in self.active:
            assert parameter.grad is not None
            gradients.append(parameter.grad.float())
            parameter.grad = None
        for parameter, gradient in zip(self.active, gradients, strict=True):
            adam(parameter, gradient, self.state[parameter], self.param_groups[0])


def adam(parameter: Tensor, gradient: Tensor, state: dict[str, Any], settings: dict[str, Any]) -> None:
    """Update one parameter and its float32 copy."""
    first, second, (beta_1, beta_2) = state["exp_avg"], state["exp_avg_sq"], settings["betas"]
    step = state["step"] = state["step"] + 1
    first.lerp_(gradient, 1 - beta_1)
    second.mul_(beta_2).addcmul_(gradient, gradient, value=1 - beta_2)
    root = second.sqrt().div_((1 - beta_2**step) ** 0.5).add_(settings["eps"])
    if parameter.dim() > 1:                     # biases and norms do not decay
        state["copy"].mul_(1 - settings["lr"] * settings["weight_decay"])
    state["copy"].addcdiv_(first, root, value=-settings["lr"] / (1 - beta_1**step))
    parameter.copy_(state["copy"])


def optimizer(model: nn.Module, *, name: str = "badam", **settings: Any) -> BAdam:
    """Return the optimizer of everything that is trained. settings: those of AdamW, such as `lr`."""
    return BAdam(model, **_recipe.kept(model, name), **{"weight_decay": 0.0} | settings)


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take steps with recorded gradients on two matrices in turns, as if each was a layer; for the golden vectors."""
    kit.freeze(model)
    own = optimizer(model, lr=inputs["lr"].item(), weight_decay=inputs["decay"].item())
    weights = {w.role: w.value for w in kit.weights(model) if w.name.endswith("_proj.weight")}
    places = ("decoder", 0), ("decoder", 1)
    own.layers = {places[0]: [weights["mlp.up"]], places[1]: [weights["mlp.down"]]}
    gradients = iter(inputs["grads"])
    for number, steps in inputs["turns"].tolist():
        own.turn({places[number]})
        for _ in range(steps):
            gradient = next(gradients)
            own.active[0].grad = gradient.reshape(own.active[0].shape)
            own.step()
    return {"output": weights["mlp.up"], "down": weights["mlp.down"]}
