"""LPT: late prompt tuning (liu2022late; code_lpt#encoder-only/models/modeling_roberta.py:RobertaEncoder).

    H <- [P(h_1); H]    before layer insert_layer,    P(h) = W_up relu(W_down h + b_down) + b_up

The first insert_layer layers read the input without a prompt. Then a network turns the state h_1 of the first token
into a prompt, which stands in front of the states for the rest of the layers. So the backward pass ends there. Trained,
and kept at inference: W_down (bottleneck, d_model), b_down (bottleneck), W_up (prompt_length * d_model, bottleneck) and
b_up. Dropout acts on the prompt. The heads do not see its positions.
"""

import inspect
import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad

from peftonomy import UsageError

from . import _kit as kit
from ._prompt import by_name, cut


class Generator(kit.Child):
    """The network that generates the prompt."""

    def __init__(self, d: int, *, prompt_length: int, bottleneck: int, dropout: float):
        super().__init__()
        for name, width, rows in (("down", d, bottleneck), ("up", bottleneck, prompt_length * d)):
            bound = 1 / math.sqrt(width)
            self.register_parameter(f"W_{name}", nn.Parameter(torch.empty(rows, width).uniform_(-bound, bound)))
            self.register_parameter(f"b_{name}", nn.Parameter(torch.empty(rows).uniform_(-bound, bound)))
        self.dropout = nn.Dropout(dropout)
        self.length = prompt_length

    def generated(self, h: Tensor) -> Tensor:
        """The prompt of each input, from (batch, n, d_model) to (batch, prompt_length, d_model)."""
        down, b_down, up, b_up = map(self.get_parameter, ("W_down", "b_down", "W_up", "b_up"))
        z = linear(torch.relu(linear(h[:, 0].to(down.dtype), down, b_down)), up, b_up)
        prompt: Tensor = self.dropout(z.view(len(h), self.length, -1))
        return prompt

    def enter(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], *, first: bool) -> Any:
        """Before a layer with the prompt: prepend it to the states, if the layer is the first, and to the mask."""
        given = by_name(layer, args, kwargs)
        if first:
            h = given["hidden_states"]
            given["hidden_states"] = torch.cat([self.generated(h).to(h.dtype), h], dim=1)
        if "attention_mask" in given:
            given["attention_mask"] = widened(given["attention_mask"], self.length)
        return (), given


def widened(mask: Tensor, length: int) -> Tensor:
    """Return a mask (batch, 1, queries or 1, keys) with `length` more queries and keys that all can see."""
    if mask.shape[2] > 1:       # as many queries as keys, which all see the same keys
        mask = torch.cat([mask[:, :, :1].expand(-1, -1, length, -1), mask], dim=2)
    return pad(mask, (length, 0), value=float(mask.dtype == torch.bool))


def apply(
    model: nn.Module, *, prompt_length: int = 5, insert_layer: int = 12, bottleneck: int = 128, dropout: float = 0.1,
    name: str = "late_prompt_tuning",
) -> nn.Module:  # fmt: skip
    """Freeze the model and generate a prompt before a layer. Raises UsageError for other models than text encoders."""
    dims = kit.inventory(model).dims
    if not dims["vocab"] or dims["n_encoders"] != 1 or dims["n_decoder_layers"] or dims["d_embed"] != dims["d_model"]:
        raise UsageError("an encoder of texts with one width in all layers was expected")
    layers = [block.module for block in kit.blocks(model, "layer")]
    if insert_layer >= len(layers):
        raise UsageError(f"fewer layers before the prompt were expected: {insert_layer} of {len(layers)} leave none")
    if {"relative_pos", "position_embeddings"} & {*inspect.signature(layers[0].forward).parameters}:
        raise UsageError("layers that are given no positions were expected: the inserted prompt has none")
    kit.freeze(model)
    child = Generator(dims["d_model"], prompt_length=prompt_length, bottleneck=bottleneck, dropout=dropout)
    hooks = kit.attach(model, name, child)
    for number, layer in enumerate(layers[insert_layer:]):
        enter = partial(child.enter, first=number == 0)
        hooks.append(layer.register_forward_pre_hook(enter, with_kwargs=True))
    hooks.extend(cut(model, prompt_length))
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the method alone on recorded inputs; for the golden vectors."""
    return {"output": model(input_ids=inputs["ids"], attention_mask=inputs["mask"]).last_hidden_state}
