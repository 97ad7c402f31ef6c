"""Top-layer tuning: fine-tuning of the last layers (lee2019elsa; code_llama_factory).

    theta_l <- theta_l - eta g    for the layers l >= L - k of each stack;    all else frozen

Trained: every pretrained parameter of the last `k` layers. Embeddings, the final norm, the pooler and a pretrained head
stay frozen; a new head is the caller's. Nothing before the first trained layer is saved for the backward pass. At
inference the weights are where they always were.
"""

from torch import nn

from peftonomy import UsageError

from . import _kit as kit


def apply(model: nn.Module, *, k: int = 2) -> nn.Module:
    """Let the optimiser move the last layers only. Raises UsageError if two stacks differ in their depth."""
    dims = kit.inventory(model).dims
    depths = {dims["n_encoder_layers"], dims["n_decoder_layers"]} - {0}
    if len(depths) > 1 or dims["n_encoders"] > 1:
        raise UsageError("one stack, or two of equal depth, was expected; this model has layers of several stacks")
    [depth] = depths
    kit.freeze(model)
    for (_, layer), parameters in kit.layers(model).items():
        for parameter in parameters:
            parameter.requires_grad_(layer >= depth - k)
    return model
