"""ADePT: adaptive decomposed prompt tuning (tang2025adept; code_adept#peft/tuners/prompt_tuning_lorax.py).

    X <- [P; X + relu(X W_down + b_down) W_up + b_up]

Trained, and kept at inference: a short prompt P (prompt_length, d_embed), and a network of W_down (d_embed, r), b_down
(r), W_up (r, d_embed) and b_up (d_embed), which reads each embedded token alone. The network starts at zero, except
for W_down. Dropout acts inside it.
"""

import math
from typing import Any, cast

import torch
from torch import Tensor, nn

from peftonomy import UsageError

from . import _kit as kit
from ._prompt import on_embedded, prepend


class Adaptive(kit.Child):
    """The prompt and the network that moves the embedded tokens."""

    def __init__(self, d: int, *, prompt_length: int, r: int, dropout: float, lr_ratio: float):
        super().__init__()
        self.P = nn.Parameter(torch.randn(prompt_length, d))
        self.W_down = nn.Parameter(torch.empty(d, r).uniform_(-1 / math.sqrt(r), 1 / math.sqrt(r)))
        self.b_down = nn.Parameter(torch.zeros(r))
        self.W_up = nn.Parameter(torch.zeros(r, d))
        self.b_up = nn.Parameter(torch.zeros(d))
        self.dropout, self.lr_ratio = nn.Dropout(dropout), lr_ratio

    def vectors(self) -> Tensor:
        return self.P                                                       # (prompt_length, d_embed)

    def moved(self, x: Tensor, past: int = 0) -> Tensor:
        """The embedded tokens (batch, n, d_embed) with their offsets, wherever they are in the input."""
        z = torch.relu(self.dropout(x.to(self.P.dtype) @ self.W_down + self.b_down))        # (batch, n, r)
        return x + (z @ self.W_up + self.b_up).to(x.dtype)


def apply(
    model: nn.Module, *, prompt_length: int = 60, r: int = 19, dropout: float = 0.1, lr_ratio: float = 1.0,
    name: str = "adept",
) -> nn.Module:  # fmt: skip
    """Freeze the model, prompt its inputs and move their embeddings. Raises UsageError for models of images."""
    dims = kit.inventory(model).dims
    if not dims["vocab"]:
        raise UsageError("a model with a vocabulary was expected: the network reads its embedded tokens")
    kit.freeze(model)
    child = Adaptive(dims["d_embed"], prompt_length=prompt_length, r=r, dropout=dropout, lr_ratio=lr_ratio)
    hooks = kit.attach(model, name, child)
    hooks.extend(on_embedded(model, child.moved))
    hooks.extend(prepend(model, child.vectors, prompt_length))
    return model


def parameter_groups(model: nn.Module, lr: float, name: str = "adept") -> list[dict[str, Any]]:
    """Parameter groups for an optimiser: the prompt at `lr`, the network at `lr_ratio` times that."""
    [child] = cast(list[Adaptive], kit.attached(model, name))
    network = [child.W_down, child.b_down, child.W_up, child.b_up]
    return [{"params": [child.P], "lr": lr}, {"params": network, "lr": lr * child.lr_ratio}]


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the method alone on recorded inputs; for the golden vectors: what enters the first layer, and the rates."""
    entered: list[Tensor] = []
    first = kit.blocks(model, "layer")[0].module
    handle = first.register_forward_pre_hook(lambda _, args: entered.append(args[0]))
    model(input_ids=inputs["ids"], decoder_input_ids=torch.zeros(len(inputs["ids"]), 1, dtype=torch.long))
    handle.remove()
    [child] = cast(list[Adaptive], kit.attached(model, "adept"))
    rates = {id(p): group["lr"] for group in parameter_groups(model, 0.5) for p in group["params"]}
    order = (child.P, child.W_down, child.b_down, child.W_up, child.b_up)
    return {"output": entered[0], "rates": torch.tensor([rates[id(p)] for p in order]).double()}
