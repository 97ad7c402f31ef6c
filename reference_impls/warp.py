"""WARP: word-level adversarial reprogramming (hambardzumyan2021warp).

    X <- [P; X],    p(c | x) = softmax_c(V_c h + b_c),    h the state where the answer is read

A frozen language model reads trained vectors beside the text, and what it says at one token is compared with one
trained vector for each class: no word has to be chosen, neither for the prompt nor for the answers. Trained, and
kept at inference: P (prompt_length, d_embed), V (n_classes, d_model), b (n_classes,). The model's own head is
computed and not used. `read_at` is the place of the mask token in the text (of the decoder's input, in an
encoder-decoder); without a mask token, as in decoders, let it be a token at the end that is there in every text.

The authors' code strews the vectors around and between the segments; here all of them come first. It reads the
state inside the masked language model's head, after dense layer and norm; here it is that of the stack itself.
"""

from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from . import _kit as kit
from ._prompt import prepend


class WARP(kit.Child):
    """The vectors in front of the text, and those that stand for the classes."""

    def __init__(self, d_model: int, table: Tensor, *, prompt_length: int, n_classes: int, read_at: int):
        super().__init__()
        self.P = nn.Parameter(table.mean() + table.std() * torch.randn(prompt_length, table.shape[1]))
        classes = nn.Linear(d_model, n_classes)
        self.V, self.b = classes.weight, classes.bias
        self.read_at = read_at
        self.h: Tensor | None = None

    def vectors(self) -> Tensor:
        return self.P                                               # (prompt_length, d_embed)

    def read(self, _: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.h = output.last_hidden_state[:, self.read_at]          # (batch, d_model)

    def answer(self, _: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        assert self.h is not None
        output.logits = linear(self.h, self.V, self.b)              # (batch, d_model) -> (batch, n_classes)
        self.h = None                                               # keeps neither memory nor graph
        return output


def apply(
    model: nn.Module, *, prompt_length: int = 20, n_classes: int = 2, read_at: int = 1, name: str = "warp"
) -> nn.Module:
    """Freeze the model, put a prompt in front of its inputs and answer with the classes' own vectors."""
    kit.freeze(model)
    tokens = cast(Any, model).get_input_embeddings()
    dims = kit.inventory(model).dims
    table = tokens.weight if isinstance(tokens, nn.Embedding) else torch.randn(100, dims["d_embed"])
    with torch.no_grad():
        warp = WARP(dims["d_model"], table, prompt_length=prompt_length, n_classes=n_classes, read_at=read_at)
    hooks = kit.attach(model, name, warp)
    hooks += prepend(model, warp.vectors, prompt_length)
    base = kit.base(model)
    hooks.append(getattr(base, "decoder", base).register_forward_hook(warp.read))
    hooks.append(model.register_forward_hook(warp.answer))
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the method alone on recorded last states `x`; for the golden vectors."""
    [child] = kit.attached(model, "warp")
    assert isinstance(child, WARP)
    child.read(model, (), SimpleNamespace(last_hidden_state=inputs["x"]))
    return {"output": child.answer(model, (), SimpleNamespace(logits=None)).logits, "prompt": child.vectors()}
