"""LN-tuning: training the normalisations only (qi2022lntuning; zhao2024lntuning).

    h = g * normalised(x) + b,    g and b trained

Trained: gain and, where there is one, bias of every normalisation of the model, the last one included. At inference
they are where they always were. The second paper trains beside them the connector, the embedding and the output head of
its multi-modal models, and calls the form without those simple; this is the simple one. peft trains a copy of each.
"""

from torch import nn

from . import _kit as kit


def apply(model: nn.Module) -> nn.Module:
    """Let the optimiser move the normalisations only."""
    kit.freeze(model)
    for weight in kit.weights(model):
        if weight.pretrained and weight.kind == "norm":
            weight.value.requires_grad_(True)
    return model
