"""RED: representation editing (wu2024red; code_red#model.py:ActivationLayer).

    h <- s * h + b,    h what the feed-forward block puts out

Trained: a scale s and a shift b (d_out,) behind every targeted module, by default the last projection of each
feed-forward block. s starts at one and b at zero. Where the module has a bias, both could be folded into it; LLaMA has
none, so both stay.
"""

import torch
from torch import Tensor, nn

from . import _kit as kit


class Edit(kit.Child):
    """The scale and shift of one module's output."""

    def __init__(self, d_out: int):
        super().__init__()
        self.s = nn.Parameter(torch.ones(d_out))
        self.b = nn.Parameter(torch.zeros(d_out))

    def after(self, _: Tensor, y: Tensor) -> Tensor:
        return y * self.s + self.b                                  # (..., d_out)


def apply(model: nn.Module, *, targets: tuple[str, ...] = ("mlp.down",)) -> nn.Module:
    """Freeze the model and edit the output of every targeted module."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        kit.attach(site, "red", Edit(site.d_out))
    return model
