"""Full fine-tuning: the baseline (devlin2019bert).

    theta <- theta - eta * grad L(theta)

Trained: every parameter that the pretrained checkpoint holds. At inference the tuned weights take the place of
the old ones, so a task costs a whole copy of the model. A head or pooler that was not pretrained is the
caller's, as everywhere here.
"""

from torch import nn

from . import _kit as kit


def apply(model: nn.Module) -> nn.Module:
    """Let the optimiser move all that was pretrained."""
    kit.freeze(model)
    for weight in kit.weights(model):
        if weight.pretrained:
            weight.value.requires_grad_(True)
    return model
