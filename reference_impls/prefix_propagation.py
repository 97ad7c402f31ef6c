"""Prefix-propagation (li2023propagation; code_prefix_propagation#model/roberta.py).

    X <- [0; X],    H_i <- [H_i[:l] + P_i; H_i[l:]]    before every layer i

l = prompt_length positions without a token stand in front of the embedded input. They have position embeddings, take
part in every layer as tokens do, and before each layer a vector is added to the state of each. Trained, and kept at
inference: one P (prompt_length, d_model) for each layer. Dropout acts on P. The heads do not see these positions.
"""

from functools import partial

import torch
from torch import Tensor, nn

from peftonomy import UsageError

from . import _kit as kit
from ._prompt import prepend_each


class Prefix(kit.Child):
    """The vectors that one layer adds to the states of the prefix."""

    def __init__(self, d: int, *, prompt_length: int, dropout: float):
        super().__init__()
        self.P = nn.Parameter(0.02 * torch.randn(prompt_length, d))
        self.dropout = nn.Dropout(dropout)

    def change(self, _: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        h, n = args[0], len(self.P)
        p = self.dropout(self.P.to(h.dtype).expand(len(h), -1, -1))                     # (batch, prompt_length, d)
        return torch.cat([h[:, :n] + p, h[:, n:]], dim=1), *args[1:]


def apply(
    model: nn.Module, *, prompt_length: int = 8, dropout: float = 0.1, name: str = "prefix_propagation"
) -> nn.Module:
    """Freeze the model and add a prefix at each layer. Raises UsageError for other models than text encoders."""
    dims = kit.inventory(model).dims
    if not dims["vocab"] or dims["n_encoders"] != 1 or dims["n_decoder_layers"] or dims["d_embed"] != dims["d_model"]:
        raise UsageError("an encoder of texts with one width in all layers was expected")
    kit.freeze(model)
    blocks = kit.blocks(model, "layer")
    for layer in blocks:
        child = Prefix(dims["d_model"], prompt_length=prompt_length, dropout=dropout)
        hooks = kit.attach(layer.module, name, child)
        hooks.append(layer.module.register_forward_pre_hook(child.change))
        if layer is blocks[0]:
            hooks.extend(prepend_each(model, partial(_empty, prompt_length), prompt_length))
    return model


def _empty(length: int, embedded: Tensor, mask: Tensor | None) -> Tensor:
    return embedded.new_zeros(length, embedded.shape[-1])


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the method alone on recorded inputs; for the golden vectors."""
    found = model(input_ids=inputs["ids"], position_ids=inputs["places"])
    return {"output": found.last_hidden_state, "pooled": found.pooler_output}
