"""MoLoRA: a soft mixture of LoRA experts (zadouri2023mov; code_mov#src/molora.py:MoLoRa).

    h = W_0 x + (alpha / r) sum over i of omega_i(x) B_i A_i x,    omega(x) = softmax(G x)

Trained, beside every targeted weight: the experts A (experts, r, d_in) and B (experts, d_out, r), and a router
G (experts, d_in). Every token uses all experts. The weights depend on the input, so nothing can be merged.
"""

from torch import nn

from . import _kit as kit
from ._mixture import Mixture


class MoLoRA(Mixture):
    """The experts beside one weight, and their router."""

    def __init__(self, d_in: int, d_out: int, *, r: int, alpha: float, experts: int):
        super().__init__(d_in, d_out, r=r, alpha=alpha, experts=experts)
        nn.init.normal_(self.A, std=0.02)
        nn.init.normal_(self.G, std=0.02)


def apply(
    model: nn.Module, *, r: int = 4, alpha: float = 16.0, experts: int = 10,
    targets: tuple[str, ...] = ("attn.*", "xattn.*", "mlp.gate", "mlp.down"),
) -> nn.Module:
    """Freeze the model and put a mixture of experts beside every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        kit.attach(site, "molora", MoLoRA(site.d_in, site.d_out, r=r, alpha=alpha, experts=experts))
    return model
