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
from transformers import PreTrainedModel

from peftonomy import UsageError

from . import _kit as kit
from ._prompt import by_name, cached, prepend, reader


class Decomposed(kit.Child):
    """The prompt and the update of the embedded input."""

    def __init__(self, d: int, *, prompt_length: int, r: int, max_length: int, alpha: float, lr_ratio: float):
        super().__init__()
        self.P = nn.Parameter(torch.randn(prompt_length, d))
        self.A = nn.Parameter(torch.empty(max_length, r).uniform_(-1 / math.sqrt(r), 1 / math.sqrt(r)))
        self.B = nn.Parameter(torch.zeros(r, d))
        self.scale, self.lr_ratio = alpha / math.sqrt(r), lr_ratio
        self.start: int | None = None           # the first position of the tokens that are embedded next

    def vectors(self) -> Tensor:
        return self.P                                               # (prompt_length, d_embed)

    def updated(self, x: Tensor, start: int = 0) -> Tensor:
        """The embedded input (batch, n, d_embed) with its update. `start` is the position of its first token."""
        delta = self.scale * (self.A @ self.B)                      # (max_length, d_embed)
        delta = delta[start : start + x.shape[1]]
        return x + pad(delta, (0, 0, 0, x.shape[1] - len(delta))).to(x.dtype)

    def enter(self, stack: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Before the stack that reads the input embeds its tokens."""
        given = by_name(stack, args, kwargs)
        past: Any = given.get("cache", given.get("past_key_values"))
        start = past.get_seq_length() - len(self.P) if cached(given) else 0
        if "inputs_embeds" not in given:
            self.start = start
            return args, kwargs
        given["inputs_embeds"] = self.updated(given["inputs_embeds"], start)
        return (), given

    def embed(self, _: nn.Module, args: Any, x: Tensor) -> Tensor:
        """After the tokens are embedded. An encoder-decoder embeds those of its decoder with the same matrix."""
        if self.start is None:
            return x
        start, self.start = self.start, None
        return self.updated(x, start)


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
    stack = reader(cast(PreTrainedModel, model).base_model)
    hooks.append(stack.register_forward_pre_hook(child.enter, with_kwargs=True))
    hooks.append(stack.get_input_embeddings().register_forward_hook(child.embed))
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
