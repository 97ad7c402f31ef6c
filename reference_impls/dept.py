"""DePT: decomposed prompt tuning (shi2023dept; code_dept#peft/tuners/prompt_tuning_lora.py:PromptEmbeddingLoRA).

    X <- [P; X + alpha / sqrt(r) A B]

Trained, and kept at inference: a short prompt P (prompt_length, d_embed), and a pair of thin matrices A (max_length, r)
and B (r, d_embed), whose product has a row for each of the first `max_length` positions of the input. B starts at zero.
Later positions have no update. A decoder that continues a cached sequence goes on with the next rows.
"""

import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from peftonomy import UsageError

from . import _kit as kit
from ._prompt import on_embedded, prepend


class Decomposed(kit.Child):
    """The prompt and the update of the embedded input."""

    def __init__(self, d: int, *, prompt_length: int, r: int, max_length: int, alpha: float, lr_ratio: float):
        super().__init__()
        self.P = nn.Parameter(torch.randn(prompt_length, d))
        self.A = nn.Parameter(torch.empty(max_length, r).uniform_(-1 / math.sqrt(r), 1 / math.sqrt(r)))
        self.B = nn.Parameter(torch.zeros(r, d))
        self.scale, self.lr_ratio = alpha / math.sqrt(r), lr_ratio

    def vectors(self) -> Tensor:
        return self.P                                               # (prompt_length, d_embed)

    def updated(self, x: Tensor, past: int = 0) -> Tensor:
        """The embedded input (batch, n, d_embed) with its update. `past` counts cached positions, also the prompt's."""
        start = max(past - len(self.P), 0)
        delta = self.scale * (self.A @ self.B)                      # (max_length, d_embed)
        delta = delta[start : start + x.shape[1]]
        return x + pad(delta, (0, 0, 0, x.shape[1] - len(delta))).to(x.dtype)


def apply(
    model: nn.Module, *, prompt_length: int = 40, r: int = 45, max_length: int = 256, alpha: float = 8.0,
    lr_ratio: float = 1.0, name: str = "dept",
) -> nn.Module:  # fmt: skip
    """Freeze the model, prompt its inputs and update their embeddings. Raises UsageError for models of images."""
    dims = kit.inventory(model).dims
    if not dims["vocab"]:
        raise UsageError("a model with a vocabulary was expected: the update is one of its tokens' embeddings")
    kit.freeze(model)
    sizes: dict[str, Any] = {"prompt_length": prompt_length, "r": r, "max_length": max_length}
    child = Decomposed(dims["d_embed"], alpha=alpha, lr_ratio=lr_ratio, **sizes)
    hooks = kit.attach(model, name, child)
    hooks.extend(on_embedded(model, child.updated))
    hooks.extend(prepend(model, child.vectors, prompt_length))
    return model


def parameter_groups(model: nn.Module, lr: float, name: str = "dept") -> list[dict[str, Any]]:
    """Parameter groups for an optimiser: the prompt at `lr`, the matrices at `lr_ratio` times that."""
    [child] = cast(list[Decomposed], kit.attached(model, name))
    return [{"params": [child.P], "lr": lr}, {"params": [child.A, child.B], "lr": lr * child.lr_ratio}]


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the method alone on recorded inputs; for the golden vectors: what enters the first layer, and the rates."""
    entered: list[Tensor] = []
    first = kit.blocks(model, "layer")[0].module
    handle = first.register_forward_pre_hook(lambda _, args: entered.append(args[0]))
    model(input_ids=inputs["ids"], decoder_input_ids=torch.zeros(len(inputs["ids"]), 1, dtype=torch.long))
    handle.remove()
    [child] = cast(list[Decomposed], kit.attached(model, "dept"))
    rates = {id(p): group["lr"] for group in parameter_groups(model, 0.5) for p in group["params"]}
    return {"output": entered[0], "rates": torch.tensor([rates[id(p)] for p in (child.P, child.A, child.B)]).double()}
