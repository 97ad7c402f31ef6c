"""MiSS-mini: a shard shared along both sides of a weight (kang2024miss; hf_peft#src/peft/tuners/miss/layer.py).

    h = W_0 x + [D, D, ...]^T sum_i x_i,    x_i the consecutive pieces of x, of length r each

Trained: D (r, mini_r) beside every targeted weight, zero at the start. At inference nothing is left: copies of D^T are
added all over W_0. With mini_r = d_out it is MiSS. peft's default for mini_r is 1.
"""

from torch import nn

from . import _kit as kit
from . import miss


def apply(
    model: nn.Module, *, r: int = 64, mini_r: int = 64, dropout: float = 0.0,
    targets: tuple[str, ...] = ("attn.*", "xattn.*", "mlp.*"),
) -> nn.Module:
    """Freeze the model and put a block beside every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        kit.attach(site, "miss_mini", miss.Shard(site.d_in, site.d_out, r=r, height=mini_r, dropout=dropout))
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the repeated blocks to the weights."""
    return kit.fold(model, "miss_mini")
