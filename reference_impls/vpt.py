"""VPT: visual prompt tuning (jia2022vpt; code_vpt#src/models/vit_prompt/vit.py:PromptedTransformer).

    shallow: X_1 <- [c; P; E],    deep: also X_i <- [c_i; D_i; E_i] before every later layer i

with c the state of the class token, E those of the patches, and X_i the input of layer i. D_i takes the place of what
layer i - 1 computed for the prompt.

Trained, and kept at inference: P (prompt_length, d_embed), and if deep one D (prompt_length, d_model) before every
layer except the first. The prompt comes after the position embeddings, so its positions have none. Outputs of the
prompt are removed at the end.
"""

from typing import Any

import torch
from torch import Tensor, nn

from . import _kit as kit
from ._image import prompt_bound, require_one_width
from ._prompt import behind_first


class Prompt(kit.Child):
    """The prompt in the embedded input of the first layer."""

    def __init__(self, d: int, *, prompt_length: int, bound: float, dropout: float):
        super().__init__()
        self.P = nn.Parameter(torch.empty(prompt_length, d).uniform_(-bound, bound))
        self.dropout = nn.Dropout(dropout)

    def enter(self, _: nn.Module, args: Any, x: Tensor) -> Tensor:
        p = self.dropout(self.P.to(x.dtype).expand(len(x), -1, -1))
        return behind_first(x, 0, p)        # (batch, n, d) -> (batch, n + length, d)

    def leave(self, _: nn.Module, args: Any, output: Any) -> Any:
        h = output.last_hidden_state
        output.last_hidden_state = behind_first(h, len(self.P))     # (batch, n, d)
        return output


class DeepPrompt(kit.Child):
    """The prompt in the input of one later layer."""

    def __init__(self, d: int, *, prompt_length: int, bound: float, dropout: float):
        super().__init__()
        self.D = nn.Parameter(torch.empty(prompt_length, d).uniform_(-bound, bound))
        self.dropout = nn.Dropout(dropout)

    def change(self, _: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        h = args[0]
        p = self.dropout(self.D.to(h.dtype).expand(len(h), -1, -1))
        return behind_first(h, len(self.D), p), *args[1:]       # (batch, n + length, d)


def apply(
    model: nn.Module, *, prompt_length: int = 5, deep: bool = False, dropout: float = 0.0, name: str = "vpt"
) -> nn.Module:
    """Freeze the model and put prompts between its class token and its patches. Raises UsageError for other models."""
    require_one_width(model)
    d = kit.inventory(model).dims["d_embed"]
    kit.freeze(model)
    base = kit.base(model)
    sizes: dict[str, Any] = {
        "prompt_length": prompt_length, "dropout": dropout, "bound": prompt_bound(model),
    }  # fmt: skip
    prompt = Prompt(d, **sizes)
    hooks = kit.attach(model, name, prompt)
    hooks.append(base.embeddings.register_forward_hook(prompt.enter))
    hooks.append(base.register_forward_hook(prompt.leave))
    for layer in kit.blocks(model, "layer")[1:] if deep else ():
        child = DeepPrompt(d, **sizes)
        kit.attach(layer.module, name, child).append(layer.module.register_forward_pre_hook(child.change))
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Run the method alone on recorded inputs; for the golden vectors."""
    states: Tensor = model(pixel_values=inputs["x"]).last_hidden_state
    return states
