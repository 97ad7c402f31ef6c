"""LISA: AdamW on a few random layers at a time (pan2024lisa; code_lmflow).

    every `interval` steps: draw n of the layers and freeze the others;    embeddings, final norm and head always train

Trained: every pretrained parameter, in the course of a run. Nothing is added: what is new is the schedule. A training
loop uses `optimizer(model, lr=...)`, which draws the layers. Resting layers have no gradients and, unless `keep` is
set, no optimizer states. At inference and in storage: a full model.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from . import _kit as kit
from . import _recipe


def apply(
    model: nn.Module, *, n: int = 2, interval: int = 20, keep: bool = False, name: str = "lisa"
) -> nn.Module:
    """Let the optimizer move all that was pretrained."""
    return _recipe.keep_and_train(model, name, n=n, interval=interval, keep=keep)


class Lisa(torch.optim.AdamW):
    """AdamW with turns: of all layers, only some are trained at a time."""

    def __init__(self, model: nn.Module, *, n: int, interval: int, keep: bool, **settings: Any):
        self.layers, self.n, self.interval, self.keep = kit.layers(model), n, interval, keep
        super().__init__([p for p in model.parameters() if p.requires_grad], **settings)
        self.draw()

    def step(self, closure: Any = None) -> Any:
        """Update what has a gradient. After every `interval` steps it is the turn of other layers."""
        found = super().step(closure)
        self.steps += 1
        if self.steps == self.interval:
            self.draw()
        return found

    def draw(self) -> None:
        """Begin the turn of n random layers."""
        places = [*self.layers]
        self.turn({places[i] for i in torch.randperm(len(places))[: self.n].tolist()})

    def turn(self, chosen: Collection[tuple[str, int]]) -> None:
        """Train these layers, each given by its stack and number, and freeze the others. Steps are counted anew."""
        self.steps = 0
        for place, parameters in self.layers.items():
            for parameter in parameters:
                parameter.requires_grad_(place in chosen)
                if place not in chosen:
                    parameter.grad = None
                    if not self.keep:
                        self.state.pop(parameter, None)


def optimizer(model: nn.Module, *, name: str = "lisa", **settings: Any) -> Lisa:
    """Return the optimizer of everything that is trained. settings: those of AdamW, such as `lr`."""
    return Lisa(model, **_recipe.kept(model, name), **settings)


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Begin recorded turns and return what is trained in each; for the golden vectors."""
    own = optimizer(model, lr=0.1)
    trained = []
    for turn in inputs["turns"].tolist():
        own.turn({("decoder", number) for number in turn})
        by_name = sorted(kit.weights(model), key=lambda weight: weight.name)
        trained.append([float(weight.value.requires_grad) for weight in by_name])
    return {"output": torch.tensor(trained, dtype=torch.float64)}
