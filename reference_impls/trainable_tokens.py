"""Trainable tokens: training a few rows of the token embedding (hf_peft, TrainableTokensConfig; there is no paper).

    E[i] <- E[i] - eta dL/dE[i]    for the chosen tokens i only

Trained: `n_tokens` rows of the matrix of token vectors, here the last ones, which is where a tokeniser that was
extended puts its new tokens. Where the output embedding is tied, it changes with them. Stored: the rows and their
indices. At inference: the model as it was, with other rows. peft names the tokens one by one, and keeps a copy of
their rows beside the matrix.
"""

from functools import partial

import torch
from torch import Tensor, nn

from . import _kit as kit


class Tokens(kit.Child):
    """Remembers which rows are trained."""

    def __init__(self, rows: Tensor):
        super().__init__()
        self.rows = rows                                            # (n_tokens,)


def embedding(model: nn.Module) -> kit.Weight:
    """The matrix of token vectors."""
    return next(weight for weight in kit.weights(model) if weight.role == "embed.token")


def apply(model: nn.Module, *, n_tokens: int = 1) -> nn.Module:
    """Let the optimiser move the last rows of the token embedding only."""
    kit.freeze(model)
    matrix = embedding(model).value.requires_grad_(True)            # (vocabulary, d_model)
    rows = torch.arange(len(matrix) - n_tokens, len(matrix), device=matrix.device)
    mask = matrix.new_zeros(len(matrix), 1).index_fill(0, rows, 1)
    matrix.register_hook(partial(torch.mul, mask))
    kit.attach(model, "trainable_tokens", Tokens(rows))
    return model


def pack(model: nn.Module) -> dict[str, Tensor]:
    """What one task stores: the rows, and which they are."""
    [tokens] = (child for child in kit.attached(model, "trainable_tokens") if isinstance(child, Tokens))
    return {"rows": tokens.rows, "values": embedding(model).value.detach()[tokens.rows]}


@torch.no_grad()
def unpack(model: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    """Write one task's rows into the pretrained model."""
    embedding(model).value[state["rows"]] = state["values"]
    return model
