"""LoRA-FA: LoRA with A frozen (zhang2023lorafa).

    h = W_0 x + (alpha / r) B A x,    A random and fixed

Trained: B (d_out, r). A (r, d_in) is drawn once and kept, so that the backward pass needs the r numbers A x of
each position instead of the d_in numbers x: that is the memory the method saves. At inference the product is
added to W_0. The first author's code and peft have an optimiser over ordinary LoRA modules besides, which corrects
the gradient of B; here that gradient is as it is.
"""

from torch import nn

from . import _kit as kit
from .lora import LoRA


class LoRAFA(LoRA):
    """LoRA with a fixed projection down."""

    def __init__(self, d_in: int, d_out: int, *, r: int, alpha: float, dropout: float):
        super().__init__(d_in, d_out, r=r, alpha=alpha, dropout=dropout)
        self.A.requires_grad_(False)        # (r, d_in), random as LoRA draws it


def apply(
    model: nn.Module, *, r: int = 8, alpha: float = 16.0, dropout: float = 0.0,
    targets: tuple[str, ...] = ("attn.*", "xattn.*", "mlp.*"),
) -> nn.Module:
    """Freeze the model and put a half-trained correction beside every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        kit.attach(site, "lora_fa", LoRAFA(site.d_in, site.d_out, r=r, alpha=alpha, dropout=dropout))
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the corrections to the weights."""
    return kit.fold(model, "lora_fa")
