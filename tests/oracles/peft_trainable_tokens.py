"""Trainable tokens: peft keeps the rows beside the matrix, and must be told which tokens they belong to.

The suite shakes our whole matrix, as it is one parameter: the rows that do not count go into peft's frozen matrix.
"""

from __future__ import annotations

from typing import Any

from peft import TrainableTokensConfig
from peft.tuners.trainable_tokens.layer import TrainableTokensLayer
from torch import nn

from reference_impls.trainable_tokens import embedding, pack

FAMILIES = ("bert", "roberta", "t5", "gpt2", "llama")


def copy(ours: nn.Module, theirs: Any) -> None:
    tokens, matrix = pack(ours)["rows"].tolist(), embedding(ours).value
    others = [row for row in range(len(matrix)) if row not in tokens]
    for layer in theirs.modules():
        if isinstance(layer, TrainableTokensLayer) and layer.tied_adapter is None:
            layer.update_layer("default", TrainableTokensConfig(token_indices=tokens))
            layer.trainable_tokens_delta["default"].copy_(matrix[tokens])
            layer.base_layer.weight[others] = matrix[others]
