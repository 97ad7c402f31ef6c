"""A LoRA that somebody else could have written: it wraps the linear modules. And three that are wrong."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

NAMES = {"inner.weight": "weight", "inner.bias": "bias", "down": "lora.A", "up": "lora.B"}
ROLES = {"attn.q": "q_proj", "attn.k": "k_proj", "attn.v": "v_proj", "attn.o": "o_proj",
         "mlp.up": "up_proj", "mlp.gate": "gate_proj", "mlp.down": "down_proj"}  # fmt: skip


class Wrapped(nn.Module):
    def __init__(self, inner: nn.Linear, r: int, alpha: float, dropout: float):
        super().__init__()
        self.inner = inner
        self.down = nn.Parameter(torch.empty(r, inner.in_features).to(inner.weight))
        self.up = nn.Parameter(torch.zeros(inner.out_features, r).to(inner.weight))
        self.dropout, self.scale = nn.Dropout(dropout), alpha / r
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        changed: Tensor = self.inner(x) + self.scale * (self.dropout(x) @ self.down.T @ self.up.T)
        return changed


def apply(
    model: nn.Module, *, r: int, alpha: float, dropout: float, lora_bias: bool, targets: Any = ("attn.q", "attn.v")
) -> nn.Module:
    if lora_bias:
        raise ValueError("this LoRA has no bias")
    model.requires_grad_(False)
    wanted = {ROLES[role] for role in targets if role in ROLES}
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in wanted:
            _put(model, name, Wrapped(module, r, alpha, dropout).train(model.training))
    return model


def merge(model: nn.Module) -> nn.Module:
    for name, module in list(model.named_modules()):
        if isinstance(module, Wrapped):
            with torch.no_grad():
                module.inner.weight.add_(module.scale * module.up @ module.down)
            _put(model, name, module.inner)
    return model


def wrong_scale(model: nn.Module, **setting: Any) -> nn.Module:
    for module in apply(model, **setting).modules():
        if isinstance(module, Wrapped):
            module.scale *= 2
    return model


def wrong_init(model: nn.Module, **setting: Any) -> nn.Module:
    for module in apply(model, **setting).modules():
        if isinstance(module, Wrapped):
            nn.init.kaiming_uniform_(module.down)
    return model


def unfrozen(model: nn.Module, **setting: Any) -> nn.Module:
    next(apply(model, **setting).parameters()).requires_grad_(True)
    return model


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)
