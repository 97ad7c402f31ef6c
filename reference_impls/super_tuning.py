"""Super-tuning: training the largest weights (ilin2025supra; hf_peft, SupertuningConfig).

    h = (W_0 + S) x,    S zero but at the floor((1 - sparsity) d_in d_out) entries of W_0 of largest magnitude

Trained: the values at those positions of every targeted weight. Stored: the values; the positions follow from W_0, as
long as that is the same to the last digit. At inference nothing is left: the values are added to W_0. The authors also
choose entries by weight times activation (Wanda). peft stores the positions too, unless told otherwise.
"""

import math

from torch import Tensor, nn

from . import _kit as kit
from . import shira


def positions(weight: Tensor, *, sparsity: float, select_top: bool) -> Tensor:
    """Where the chosen entries of a weight (d_out, d_in) are in its flattened form."""
    count = math.floor(weight.shape[0] * weight.shape[1] * (1 - sparsity))
    return weight.detach().abs().flatten().topk(count, largest=select_top).indices      # (count,)


def apply(
    model: nn.Module, *, sparsity: float = 0.99, select_top: bool = True,
    targets: tuple[str, ...] = ("attn.q", "attn.v", "xattn.q", "xattn.v"), name: str = "super_tuning",
) -> nn.Module:
    """Freeze the model and train the largest (or smallest) entries of every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        where = positions(site.weight, sparsity=sparsity, select_top=select_top)
        kit.attach(site, name, shira.SHiRA(site.d_in, site.d_out, positions=where))
    return model


def merge(model: nn.Module, name: str = "super_tuning") -> nn.Module:
    """Add the values to the weights."""
    return kit.fold(model, name)
