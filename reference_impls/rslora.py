"""rsLoRA: a rank stabilisation scaling factor (kalajdzievski2023rslora).

    h = W_0 x + (alpha / sqrt(r)) B A x

Trained: A (r, d_in) and B (d_out, r), as in LoRA, of which only the scale is another one: by the root of the rank,
so that neither outputs nor gradients shrink when the rank grows. At inference nothing is left: the product is added
to W_0. It is LoRA with alpha sqrt(r) for alpha, which is how it is written here; peft has a switch for it.
"""

import math

from torch import nn

from . import lora


def apply(
    model: nn.Module, *, r: int = 64, alpha: float = 16.0, dropout: float = 0.0,
    targets: tuple[str, ...] = ("attn.*", "xattn.*", "mlp.*"),
) -> nn.Module:
    """Freeze the model and put a low-rank correction with the stable scale beside every targeted weight."""
    return lora.apply(model, r=r, alpha=alpha * math.sqrt(r), dropout=dropout, targets=targets, name="rslora")


def merge(model: nn.Module) -> nn.Module:
    """Add the corrections to the weights."""
    return lora.merge(model, name="rslora")
