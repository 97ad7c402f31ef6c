"""What training recipes share: the method is an optimizer, and adds no tensor to the model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from peftonomy.backbones.modules import LINEAR

from . import _kit as kit


class Recipe(kit.Child):
    """The hyperparameters, kept at the model for its optimizer. It has no tensors."""

    def __init__(self, settings: dict[str, Any]):
        super().__init__()
        self.settings = settings


def keep(model: nn.Module, name: str, **settings: Any) -> None:
    """Freeze the model, and keep the hyperparameters at it."""
    kit.freeze(model)
    kit.attach(model, name, Recipe(settings))


def keep_and_train(model: nn.Module, name: str, **settings: Any) -> nn.Module:
    """Keep the hyperparameters at the model, and train all that was pretrained."""
    keep(model, name, **settings)
    for weight in kit.weights(model):
        if weight.pretrained:
            weight.value.requires_grad_(True)
    return model


def kept(model: nn.Module, name: str) -> dict[str, Any]:
    """Return the hyperparameters that are kept at the model."""
    [recipe] = (child for child in kit.attached(model, name) if isinstance(child, Recipe))
    return recipe.settings


class OnMatrices(torch.optim.AdamW):
    """AdamW, but for the weights of the layers' linear modules: `update` moves each of those."""

    def __init__(self, model: nn.Module, recipe: dict[str, Any], **settings: Any):
        """recipe: what `update` finds in its group, besides AdamW's settings. Weights do not decay by default."""
        matrices = {
            id(w.value) for w in kit.weights(model)
            if w.kind in LINEAR and w.layer is not None and w.name.endswith(".weight")
        }  # fmt: skip
        trained = [p for p in model.parameters() if p.requires_grad]
        own = {"params": [p for p in trained if id(p) in matrices], "eps": 1e-6, **recipe}
        others = {"params": [p for p in trained if id(p) not in matrices]}
        super().__init__([others, own], **{"weight_decay": 0.0} | settings)

    def step(self, closure: Any = None) -> Any:
        """Update all parameters that have a gradient."""
        groups = self.param_groups
        self.param_groups = groups[:1]
        found = super().step(closure)
        self.param_groups = groups
        for parameter in groups[1]["params"]:
            if parameter.grad is not None:
                self.update(parameter, groups[1])
        return found

    def update(self, weight: Tensor, group: dict[str, Any]) -> None:
        """Update one matrix (m, n)."""
        raise NotImplementedError
