"""Linear probing: a linear classifier on frozen features (alain2016probes; code_vpt).

    y = W f(x) + b,    W and b trained, f frozen

Trained: the head of a language model, unless it is tied to the embeddings. The new head of a task with labels is the
caller's, as with every method, so nothing else is trained then. At inference the weights are where they always were.
"""

from torch import nn

from . import _kit as kit


def apply(model: nn.Module) -> nn.Module:
    """Freeze the model and let the optimiser move a pretrained head only."""
    kit.freeze(model)
    for weight in kit.weights(model):
        if weight.pretrained and weight.role.startswith("head."):
            weight.value.requires_grad_(True)
    return model
